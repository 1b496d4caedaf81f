// Children that have ended and are not as others: those that a tracer keeps from the daemon, those that it has never
// started, and those of Node's.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { equal, is } from "uvu/assert";
import { posixSpawn } from "../daemon/kernel/native.js";
import { holdChild } from "../daemon/tree/leader.js";
import { spawnReady, testProgram } from "./commands.js";
import { assertServes, startDaemon } from "./daemon.js";
import { scenario, statFields, until } from "./scenario.js";

const traced = (...args: string[]) => [process.execPath, ...testProgram("traced.mjs", ...args)];
const siblings = (...args: string[]) => [process.execPath, ...testProgram("siblings.mjs", ...args)];

function isZombie(pid: number): boolean {
  return statFields(pid)?.[0] === "Z";
}

/** Its children that have ended and wait for it. */
function zombiesOf({ pid }: { pid: number }): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((one) => statFields(one)?.[1] === String(pid) && isZombie(one));
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
  // Its other threads may be on their way out yet.
  const now = await until("its end is told, and its child alone lives", async () => {
    const told = await client.status({ id });
    return told.exit !== null && told.members.length === 1 && told;
  });
  is(now.signal, "SIGKILL");
  await assertServes(daemon);
  is(isZombie(pid), true);
  const { forced, signal } = await client.terminate({ id, graceMs: 100 });
  equal([forced, signal], [true, "SIGKILL"]);
  await untilReaped(pid);
});

scenario("whom a leader makes a child of the daemon is reaped with its tree", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const { id } = await spawnReady(client, siblings("100"));
  await until("all of them have ended", () => zombiesOf(daemon).length === 100);
  await client.terminate({ id, force: true });
  await until("all of them are reaped", () => zombiesOf(daemon).length === 0);
});

scenario("how a leader ended is told, however many siblings it makes", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const codes = Array.from({ length: 20 }, (_, at) => at + 1);
  const ends = codes.map(async (code) => {
    const { id } = await client.spawn({ command: siblings("5", String(code)) });
    return (await client.wait({ id })).process.exitCode;
  });
  equal(await Promise.all(ends), codes);
  // The last sibling of all may have ended after its leader.
  const { id } = await client.spawn({ command: ["true"] });
  await client.wait({ id });
  await until("all of them are reaped", () => zombiesOf(daemon).length === 0);
});

scenario("a child of Node's is left to Node", async () => {
  const image = { path: "/bin/sh", argv: ["sh", "-c", ":"], env: [], cwd: "/", stdio: [0, 1, 2] };
  const leader = holdChild(posixSpawn(image));
  await leader.exited;
  // All in one turn of the event loop: Node hears of it only after whatever the release has set off.
  leader.release();
  const child = spawn("sleep", ["1000"], { stdio: "ignore" });
  child.kill("SIGKILL");
  while (!isZombie(child.pid ?? 0));
  equal(await once(child, "exit"), [null, "SIGKILL"]);
});
