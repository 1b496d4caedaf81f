// The sweep by hand: what a killed daemon has left is found where that daemon kept it, and ended, whatever is
// wrong with the other settings. How systemd runs it is told in systemd*.test.ts.

import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match } from "uvu/assert";
import { crash, daemonFile, startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenario } from "./scenario.js";

/** Its exit code, and what it said. */
function sweep({ folder }: Scene, env: Record<string, string>, ...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [daemonFile, "--sweep", ...args], {
    encoding: "utf8",
    env: { PATH: process.env["PATH"] ?? "", HOME: folder, ...env },
  });
  return { code: status, said: stdout + stderr };
}

/** Somebody whom a killed daemon has left. */
async function leave(scene: Scene) {
  const daemon = await startDaemon(scene);
  const { pid } = await (await daemon.connect()).spawn({ command: ["sleep", "1000"] });
  await crash(daemon);
  return { ...daemon, leftPid: pid ?? 0 };
}

scenario("no variable that is wrong keeps the sweep from its work", async (scene) => {
  const { socket, state, leftPid } = await leave(scene);
  const wrong = {
    PROCSUP_CONFIG: join(scene.folder, "none.json"),
    PROCSUP_CONTAINMENT: "jail",
    PROCSUP_LOG_LEVEL: "loud",
    PROCSUP_OUTPUT_BYTES: "1M",
  };
  const { code, said } = sweep(scene, { ...wrong, PROCSUP_SOCKET: socket, PROCSUP_STATE: state });
  equal([code, isAlive(leftPid)], [0, false], said);
  match(said, /"swept"/);
});

scenario("the sweep looks where the file says, whatever else in it is wrong", async (scene) => {
  const { socket, state, leftPid } = await leave(scene);
  const file = join(scene.folder, "config.json");
  // With another socket it would know nobody by the mark, and in another state directory nobody at all.
  writeFileSync(file, JSON.stringify({ socket, state, logLevel: "loud", unheardOf: 1 }));
  const { code, said } = sweep(scene, {}, "--config", file);
  equal([code, isAlive(leftPid)], [0, false], said);
  match(said, /"swept"/);
});

scenario("of a file that names one place badly the sweep takes the other", async (scene) => {
  // The socket by the variable: of the usual one somebody else's processes may bear the mark.
  const { socket, state, leftPid } = await leave(scene);
  const env = { PROCSUP_SOCKET: socket };
  const file = join(scene.folder, "config.json");
  writeFileSync(file, JSON.stringify({ socket: 7, state }));
  is(sweep(scene, env, "--config", file).code, 0);
  is(isAlive(leftPid), false);
  for (const content of ["[]", "null", "no JSON"]) {
    writeFileSync(file, content);
    const { code, said } = sweep(scene, { ...env, PROCSUP_STATE: state }, "--config", file);
    is(code, 0, said);
  }
});

scenario("what a daemon on that socket holds is not swept", async (scene) => {
  const { socket, state, leftPid } = await leave(scene);
  const other = await startDaemon(scene, { state: join(scene.folder, "other") });
  const { pid } = await (await other.connect()).spawn({ command: ["sleep", "1000"] });
  const { code, said } = sweep(scene, { PROCSUP_SOCKET: socket, PROCSUP_STATE: state });
  equal([code, isAlive(leftPid), isAlive(pid ?? 0)], [0, true, true]);
  match(said, /not swept.*another procsupd listens on/);
  process.kill(leftPid, "SIGKILL");
});
