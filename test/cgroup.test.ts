// What others do to the daemon's cgroups: they are its own, but in a tree that everybody of its user can change.

import { readdirSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { equal } from "uvu/assert";
import { noCgroup, openCgroup } from "./cage.js";
import { startDaemon } from "./daemon.js";
import { type Scene, scenario, skipped } from "./scenario.js";

function scenarioOf(name: string, body: (scene: Scene) => Promise<void>): void {
  if (noCgroup === null) scenario(name, body);
  else skipped(name, noCgroup);
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
