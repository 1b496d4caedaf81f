// What others do to the daemon's cgroups: they are its own, but in a tree that everybody of its user can change.

import { readdirSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match } from "uvu/assert";
import { noCgroup, openCgroup } from "./cage.js";
import { programs, spawnReady } from "./commands.js";
import { startDaemon } from "./daemon.js";
import { type Scene, scenarioUnless, until, whyNot } from "./scenario.js";

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
    await until("all three are at it", isReady);
    // Some five in ten thousand looks meet one that goes just then.
    for (let count = 0; count < 2_000; count++)
      equal((await client.status({ id })).members.length, 3);
    equal((await client.terminate({ id })).ended, 3);
  },
);

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
