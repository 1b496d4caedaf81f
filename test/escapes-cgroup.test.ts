// Every way out of a tree, tried with cgroups in force.

import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is } from "uvu/assert";
import { cgroupOf, noCgroup } from "./cage.js";
import { startDaemon } from "./daemon.js";
import { playMatrix } from "./escapes.js";
import { isAlive, scenarioUnless, until } from "./scenario.js";

playMatrix("cgroup");

const nested = "cgroup: cgroups that a tree makes for itself are emptied and go with it";
scenarioUnless(noCgroup, nested, async (scene) => {
  const client = await (await startDaemon(scene)).connect();
  const script = "sleep 1000 & sleep 1000 & wait";
  const { id, pid } = await client.spawn({ command: ["sh", "-c", script] });
  const members = async () => (await client.status({ id })).members.map((one) => one.pid);
  const [, first = 0, second = 0] = await until("there are three", async () => {
    const pids = await members();
    return pids.length === 3 && pids;
  });
  const room = cgroupOf(pid ?? 0) ?? "";
  mkdirSync(join(room, "a", "b"), { recursive: true });
  mkdirSync(join(room, "empty", "c"), { recursive: true });
  writeFileSync(join(room, "a", "b", "cgroup.procs"), String(first));
  writeFileSync(join(room, "a", "cgroup.procs"), String(second));
  equal(new Set(await members()), new Set([pid, first, second]));
  const { ended, forced } = await client.terminate({ id });
  equal([ended, forced], [3, false]);
  for (const one of [pid ?? 0, first, second]) is(isAlive(one), false);
  await until("its cgroup and those below are removed", () => !existsSync(room));
});
