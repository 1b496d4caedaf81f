// Nothing is left of what has ended: no descriptor, no zombie, no cgroup.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { is } from "uvu/assert";
import { cgroupOf, containments, noCgroup } from "./cage.js";
import { crash, type Daemon, startDaemon } from "./daemon.js";
import { isAlive, scenario, scenarioUnless, statFields, until } from "./scenario.js";

for (const containment of containments) {
  const what = "what has ended leaves neither a descriptor nor a zombie";
  scenario(`${containment}: ${what}`, async (scene) => {
    const daemon = await startDaemon(scene, { args: ["--containment", containment] });
    const client = await daemon.connect();
    const round = async () => {
      const { id } = await client.spawn({ command: ["sleep", "1000"] });
      await client.status({ id });
      await client.terminate({ id });
    };
    const descriptors = () => readdirSync(`/proc/${daemon.pid}/fd`).length;
    const isZombie = (pid: number) => {
      const [state, parent] = statFields(pid) ?? [];
      return state === "Z" && Number(parent) === daemon.pid;
    };
    for (let count = 0; count < 5; count++) await round();
    const before = descriptors();
    for (let count = 0; count < 20; count++) await round();
    // One may be on its way yet.
    await until("no descriptor is left", () => descriptors() <= before + 1);
    await until("no zombie is left", () => !readdirSync("/proc").map(Number).some(isZombie));
  });
}

/** Where a daemon holds its processes. */
function baseOf({ state }: Daemon): string {
  const key = Number(readFileSync(join(state, "key"), "utf8"));
  return join(cgroupOf(process.pid) ?? "", `procsup-${key.toString(16).padStart(8, "0")}`);
}

scenarioUnless(noCgroup, "a stop leaves no cgroup", async (scene) => {
  const daemon = await startDaemon(scene);
  const base = baseOf(daemon);
  is(existsSync(base), true);
  daemon.child.kill("SIGTERM");
  is(await daemon.exited, 0);
  is(existsSync(base), false);
});

scenarioUnless(
  noCgroup,
  "a cgroup in which nobody lives any more is swept at the next start",
  async (scene) => {
    const first = await startDaemon(scene);
    const { id, pid } = await (await first.connect()).spawn({ command: ["sleep", "1000"] });
    const room = join(baseOf(first), id);
    await until("it is in", () => cgroupOf(pid ?? 0) === room);
    await crash(first);
    process.kill(pid ?? 0, "SIGKILL");
    await until("it is gone", () => !isAlive(pid ?? 0));
    rmSync(join(first.state, "journal"));
    const second = await startDaemon(scene);
    await until("it is swept", () => !existsSync(room));
    // One whose process is remembered, as a crash just after its end leaves it.
    const client = await second.connect();
    const ended = await client.spawn({ command: ["true"] });
    await client.wait({ id: ended.id });
    const left = join(baseOf(second), ended.id);
    await until("its own is removed", () => !existsSync(left));
    await crash(second);
    mkdirSync(left);
    await startDaemon(scene);
    await until("that is swept, too", () => !existsSync(left));
  },
);
