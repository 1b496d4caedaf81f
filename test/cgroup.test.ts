// What others do to the daemon's cgroups: they are its own, but in a tree that everybody of its user can change.

import { readdirSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match } from "uvu/assert";
import { noCgroup, openCgroup } from "./cage.js";
import { programs, spawnReady } from "./commands.js";
import { startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenarioUnless, until, whyNot } from "./scenario.js";

function scenarioOf(name: string, body: (scene: Scene) => Promise<void>): void {
  scenarioUnless(noCgroup, name, body, 60_000);
}

scenarioOf("an empty cgroup of ours that somebody removes is made anew", async (scene) => {
  const { prefix, folder } = openCgroup(scene);
  const daemon = await startDaemon(scene, { prefix });
  const client = await daemon.connect();
  const [base = ""] = readdirSync(folder).filter((name) => name.startsWith("procsup-"));
  rmdirSync(join(folder, base));
  const { id, containment } = await client.spawn({ command: ["sleep", "1000"] });
  equal([containment, readdirSync(join(folder, base)).includes(id)], ["cgroup", true]);
  equal((await client.terminate({ id })).ended, 1);
});

scenarioOf(
  "a tree that makes and removes cgroups without end is told of and ended",
  async (scene) => {
    const { prefix } = openCgroup(scene);
    const client = await (await startDaemon(scene, { prefix })).connect();
    const command = [process.execPath, join(programs, "churns-cgroups.mjs"), "3"];
    const { id } = await client.spawn({ command });
    const isReady = async () => (await client.logs({ id })).text === "ready\n".repeat(3);
    await until("all three are at it", isReady, 12_000);
    // Some five in ten thousand looks meet one that goes just then.
    for (let count = 0; count < 2_000; count++)
      equal((await client.status({ id })).members.length, 3);
    equal((await client.terminate({ id })).ended, 3);
  },
);

const odd: Record<string, string> = {
  "bytes that are no text": 'own="$own/$(printf "\\377")"; mkdir "$own"',
  "threads alone": 'own="$own/t"; mkdir "$own"; echo threaded >"$own/cgroup.type"',
};

for (const [what, make] of Object.entries(odd)) {
  scenarioOf(`a tree that makes a cgroup of ${what} is ended like any other`, async (scene) => {
    const { prefix, pids } = openCgroup(scene);
    const daemon = await startDaemon(scene, { prefix });
    const client = await daemon.connect();
    const own = `own=$(awk '/ - cgroup2 /{print $5}' /proc/self/mountinfo)$(sed -n s/^0:://p /proc/self/cgroup)`;
    const enter = `sh -c 'echo 0 >"$1/cgroup.procs"; echo ready; exec sleep 1000' - "$own" & wait`;
    const { id, pid } = await spawnReady(client, ["sh", "-c", `${own}; ${make}; ${enter}`]);
    is((await client.status({ id })).members.length, 2);
    is((await client.info({})).strays, 0);
    process.kill(pid, "SIGSTOP"); // that it may not be its end what ends the rest
    is((await client.terminate({ id, force: true })).ended, 2);
    equal(pids(), [daemon.pid]);
    const after = await spawnReady(client, ["sh", "-c", `${own}; ${make}; ${enter}`], {
      strays: "keep",
    });
    process.kill(after.pid, "SIGKILL");
    await until("the leader is gone", () => !isAlive(after.pid));
    is((await client.terminate({ id: after.id })).ended, 1);
    equal(pids(), [daemon.pid]);
  });
}

scenarioOf("a cgroup that cannot be removed ends no daemon", async (scene) => {
  const { prefix, folder } = openCgroup(scene);
  const daemon = await startDaemon(scene, { prefix: [...prefix, "unshare", "--mount"] });
  const client = await daemon.connect();
  // While it enters its cgroup it holds a file there open, and nothing can be made read-only.
  const { id, pid } = await spawnReady(client, ["sh", "-c", "echo ready; exec sleep 1000"]);
  for (const options of ["--bind", "-oremount,bind,ro"]) {
    const inside = ["nsenter", "--mount", `--target=${daemon.pid}`, "mount", options];
    equal(whyNot([...inside, folder, folder]), null);
  }
  process.kill(pid, "SIGKILL");
  is((await client.wait({ id })).process.signal, "SIGKILL");
  const refused = client.spawn({ command: ["true"] });
  match(String(await refused.catch((error: unknown) => error)), /EROFS: cannot make a cgroup/);
  is((await client.info({})).containment, "cgroup");
});
