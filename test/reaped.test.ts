// Children that have ended but are not easily reaped: those that a tracer keeps from the daemon.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { equal, is } from "uvu/assert";
import { spawnReady, testProgram } from "./commands.js";
import { assertServes, startDaemon } from "./daemon.js";
import { scenario, statFields, until } from "./scenario.js";

const traced = (...args: string[]) => [process.execPath, ...testProgram("traced.mjs", ...args)];

function isZombie(pid: number): boolean {
  return statFields(pid)?.[0] === "Z";
}

async function untilReaped(pid: number): Promise<void> {
  await until("its number is given back", () => statFields(pid) === null);
}

scenario("who dies while a debugger is attached is terminated, and reaped later", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const { id, pid } = await spawnReady(client, traced());
  const [file = "", ...args] = traced("trace", String(pid));
  const tracer = spawn(file, args, { stdio: ["ignore", "pipe", "inherit"] });
  scene.after(() => void tracer.kill("SIGKILL"));
  await once(tracer.stdout, "data");
  const { status, signal } = await client.terminate({ id, force: true });
  equal([status, signal], ["terminated", "SIGKILL"]);
  await assertServes(daemon);
  is(isZombie(pid), true);
  tracer.kill("SIGKILL");
  await untilReaped(pid);
});

scenario("a leader that dies while its child traces it has ended all the same", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const { id, pid } = await spawnReady(client, traced("by-child"), { strays: "keep" });
  await client.signal({ id, signal: "SIGKILL" });
  const now = await until("its end is told", async () => {
    const told = await client.status({ id });
    return told.exit !== null && told;
  });
  equal([now.signal, now.members.length], ["SIGKILL", 1]);
  await assertServes(daemon);
  is(isZombie(pid), true);
  const { forced, signal } = await client.terminate({ id, graceMs: 100 });
  equal([forced, signal], [true, "SIGKILL"]);
  await untilReaped(pid);
});
