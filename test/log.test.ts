// Where the log goes when it is neither read nor a plain pipe.

import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { match, ok } from "uvu/assert";
import { limits } from "../client/wire.js";
import { call, type Daemon, launchDaemon } from "./daemon.js";
import { type Scene, scenario, until, within } from "./scenario.js";

/** A daemon whose log goes to a pipe that nobody reads, but whoever is given the descriptor. */
async function startUnread(
  scene: Scene,
  envOf: (fd: number) => Record<string, string> = () => ({}),
): Promise<{ daemon: Daemon; fd: number }> {
  const pipe = join(scene.folder, "pipe");
  spawnSync("mkfifo", [pipe]);
  const fd = openSync(pipe, "r+");
  scene.after(() => closeSync(fd));
  const prefix = ["sh", "-c", `exec "$@" 1<>${pipe}`, "sh"];
  const daemon = launchDaemon(scene, { env: envOf(fd), prefix });
  scene.after(async () => {
    daemon.child.kill("SIGKILL"); // its last words are in the pipe, where the scene would not see them
    await daemon.exited;
  });
  await until("it listens", () => existsSync(daemon.socket), 12_000);
  return { daemon, fd };
}

scenario("a log that nobody reads stops nobody", async (scene) => {
  const { daemon } = await startUnread(scene);
  const { ask } = await daemon.raw();
  const refused = (_: unknown, n: number) => call("signal", { pid: 1, signal: "SIGCONT" }, n);
  const batch = Array.from({ length: limits.batchCalls }, refused);
  for (let n = 0; n < 20; n++) await within(5_000, "an answer", () => ask(batch));
});

scenario("a record for journald is one line, whatever a client has sent", async (scene) => {
  const stream = () => {
    const { dev, ino } = statSync(join(scene.folder, "pipe"));
    return { JOURNAL_STREAM: `${dev}:${ino}` };
  };
  const { daemon, fd } = await startUnread(scene, stream);
  const { ask } = await daemon.raw();
  await ask(call("spawn", { command: ["/bin/true\n<0>forged"] }));
  await ask(call("signal", { name: "x\n<0>forged", signal: "SIGHUP" }));
  daemon.child.kill("SIGTERM");
  await daemon.exited;
  const bytes = Buffer.alloc(65_536);
  const text = bytes.toString("utf8", 0, readSync(fd, bytes, 0, bytes.length, null));
  ok(text.includes("forged"));
  const words = "ready|audit|spawned|spawn failed|exited|stopping|stopped";
  for (const line of text.trim().split("\n")) match(line, new RegExp(`^<[67]>(${words})`));
});
