// What the machine does to a running daemon: no descriptor left, a state directory that is read-only or
// somebody else's, a clock that jumps. Whoever runs is told of, ended and followed all the same.

import { spawnSync } from "node:child_process";
import {
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import type { Client } from "../client/client.js";
import { containments, isPaused } from "./cage.js";
import { programs, refusalOf, spawnReady, testProgram } from "./commands.js";
import {
  call,
  crash,
  type Daemon,
  exhaust,
  launchDaemon,
  limitDescriptors,
  rewriteJournal,
  startDaemon,
} from "./daemon.js";
import { isAlive, type Scene, scenario, skipped, until } from "./scenario.js";

const isRoot = process.getuid?.() === 0;

async function sleeper(client: Client): Promise<{ id: string; pid: number }> {
  const { id, pid } = await client.spawn({ command: ["sleep", "1000"] });
  return { id, pid: pid ?? 0 };
}

function run(...argv: string[]): void {
  const [file = "", ...args] = argv;
  const { status, stderr } = spawnSync(file, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${argv.join(" ")}: ${stderr}`);
}

// --- no descriptor left -----------------------------------------------------------------------

async function isLackOfDescriptors(promise: Promise<unknown>): Promise<void> {
  const { kind, message, facts } = await refusalOf(promise);
  equal([kind, facts["limit"], facts["errno"]], ["limit_exceeded", "descriptors", "EMFILE"]);
  match(message, /^EMFILE: the daemon has no descriptor left: try again later, or raise/);
}

for (const containment of containments) {
  const start = (scene: Scene) => startDaemon(scene, { args: ["--containment", containment] });

  scenario(
    `${containment}: without a descriptor left nothing starts, and what runs is told of and ended`,
    async (scene) => {
      const daemon = await start(scene);
      const client = await daemon.connect();
      const graceful = await spawnReady(client, testProgram("forks-child.sh"));
      const stubborn = await spawnReady(client, testProgram("ignores-term.sh"));
      const stray = join(scene.folder, "stray");
      const kept = await spawnReady(client, testProgram("leaves-stray.sh", stray), {
        strays: "keep",
      });
      const hasEnded = async () => (await client.status({ id: kept.id })).exitCode === 5;
      await until("its leader is gone", hasEnded);
      const crashing = await sleeper(client);
      const idle = await sleeper(client);
      const lift = await exhaust(daemon);

      const { kind, message, facts } = await refusalOf(client.spawn({ command: ["true"] }));
      equal([kind, facts["errno"]], ["spawn_failed", "EMFILE"]);
      match(message, /^EMFILE: /);
      await isLackOfDescriptors(client.logs({ id: idle.id }));
      is((await client.status({ id: graceful.id })).members.length, 2);
      equal((await client.info({})).strays, 0);
      is((await client.pause({ id: stubborn.id })).status, "running");
      await client.resume({ id: stubborn.id });
      process.kill(crashing.pid, "SIGSEGV");
      const crashed = (await client.wait({ id: crashing.id })).process;
      equal([crashed.status, crashed.signal], ["exited", "SIGSEGV"]);
      const gentle = await client.terminate({ id: graceful.id });
      equal([gentle.ended, gentle.forced, isAlive(graceful.pid)], [2, false, false]);
      const hard = await client.terminate({ id: stubborn.id, force: true });
      equal([hard.ended, hard.signal, isAlive(stubborn.pid)], [2, "SIGKILL", false]);
      const left = await client.terminate({ id: kept.id });
      equal([left.ended, isAlive(Number(readFileSync(stray, "utf8")))], [1, false]);
      is(isAlive(idle.pid), true);

      lift();
      equal((await client.logs({ id: idle.id })).text, "");
      const young = await (await daemon.connect()).spawn({ command: ["sleep", "1000"] });
      for (const { id } of [idle, young]) is((await client.terminate({ id })).ended, 1);
    },
  );

  scenario(
    `${containment}: nothing is forgotten while not even the last descriptor can be had`,
    async (scene) => {
      const daemon = await start(scene);
      const client = await daemon.connect();
      const file = join(scene.folder, "stray");
      const orphaned = await spawnReady(client, testProgram("leaves-stray.sh", file), {
        strays: "keep",
      });
      const stray = Number(readFileSync(file, "utf8"));
      const two = join(scene.folder, "two");
      const shell = `sleep 1000 & echo $! >${two}; sleep 1000 & echo ready; exit 6`;
      const halved = await client.spawn({ command: ["sh", "-c", shell], strays: "keep" });
      await until("its leader is gone", async () => {
        const { exitCode, members } = await client.status({ id: halved.id });
        return exitCode === 6 && members.length === 2;
      });
      const crashing = await sleeper(client);
      const idle = await spawnReady(client, testProgram("forks-child.sh"));
      const lift = limitDescriptors(daemon, 3);
      await isLackOfDescriptors(client.status({ id: idle.id }));
      await isLackOfDescriptors(client.pause({ id: idle.id }));
      const half = Number(readFileSync(two, "utf8"));
      process.kill(half, "SIGKILL");
      process.kill(crashing.pid, "SIGSEGV");
      process.kill(stray, "SIGKILL");
      await until("they are gone", () => ![half, crashing.pid, stray].some(isAlive));
      lift();
      is((await client.wait({ id: crashing.id })).process.signal, "SIGSEGV");
      is((await client.wait({ id: orphaned.id })).process.exitCode, 5);
      is((await client.terminate({ id: halved.id })).ended, 1);
      await client.pause({ id: idle.id });
      await until("it stands still", () => isPaused(idle.pid));
      await client.resume({ id: idle.id });
      is(isPaused(idle.pid), false);
      // Whatever number the daemon had put by may be somebody else's by now.
      const others = await Promise.all(Array.from({ length: 8 }, () => daemon.raw()));
      for (const other of others) ok((await other.ask(call("info"))).result);
      const liftAgain = await exhaust(daemon);
      for (const _ of others) is((await client.status({ id: idle.id })).members.length, 2);
      for (const other of others) ok((await other.ask(call("info"))).result);
      liftAgain();
      is((await client.terminate({ id: idle.id })).ended, 2);
    },
  );
}

scenario(
  "whoever connects while there is no descriptor left is let go, not kept",
  async (scene) => {
    const daemon = await startDaemon(scene);
    const client = await daemon.connect();
    const { id } = await sleeper(client);
    const lift = await exhaust(daemon);
    const turnedAway = await daemon.raw();
    await turnedAway.ended;
    is((await client.status({ id })).status, "running");
    lift();
    ok((await (await daemon.raw()).ask(call("info"))).result);
  },
);

// --- the state directory ----------------------------------------------------------------------

const readOnly = "a state directory that turns read-only stops new processes only, and passes";
const taken = "a state directory that is somebody else's in its place is not used, and passes";

if (!isRoot) {
  skipped(readOnly, "needs root, to mount it so");
  skipped(taken, "needs root, to give a directory away");
} else {
  scenario(readOnly, async (scene) => {
    const first = await startDaemon(scene);
    const before = await first.connect();
    const ended = await sleeper(before);
    const living = await sleeper(before);
    run("mount", "--bind", first.state, first.state);
    scene.after(() => {
      if (readFileSync("/proc/mounts", "utf8").includes(first.state)) run("umount", first.state);
    });
    run("mount", "-o", "remount,bind,ro", first.state);
    const refused = await refusalOf(sleeper(before));
    equal([refused.kind, refused.facts["errno"]], ["spawn_failed", "EROFS"]);
    match(refused.message, /^EROFS: cannot create output files/);
    is((await before.status({ id: living.id })).members.length, 1);
    is((await before.terminate({ id: ended.id })).success, true);
    is(isAlive(ended.pid), false);
    await crash(first);
    const barred = launchDaemon(scene);
    is(await barred.exited, 78);
    match(
      barred.log.join("\n"),
      /cannot use the state directory: EROFS.*; choose one with --state/,
    );
    run("umount", first.state);
    const client = await (await startDaemon(scene)).connect();
    const was = await client.status({ id: ended.id });
    equal([was.status, was.signal], ["terminated", "SIGTERM"]);
    for (const { id } of [living, await sleeper(client)])
      is((await client.terminate({ id })).ended, 1);
  });

  scenario(taken, async (scene) => {
    const first = await startDaemon(scene);
    const before = await first.connect();
    const ended = await sleeper(before);
    const living = await sleeper(before);
    rmSync(first.state, { recursive: true });
    mkdirSync(first.state, { mode: 0o700 });
    chownSync(first.state, 65534, 65534);
    const { kind, facts } = await refusalOf(sleeper(before));
    equal([kind, facts["stage"]], ["spawn_failed", "journal"]);
    const told = /belongs to uid 65534, not to 0: chown 0 .*cannot write the journal/;
    await until("it says why", () => first.log.some((line) => told.test(line)));
    is((await before.terminate({ id: ended.id })).success, true);
    is((await before.status({ id: living.id })).members.length, 1);
    equal(readdirSync(first.state), []);
    chownSync(first.state, 0, 0);
    const young = await until("it passes", () => sleeper(before).catch(() => null));
    is(first.log.filter((line) => told.test(line)).length, 1);
    await crash(first);
    const client = await (await startDaemon(scene)).connect();
    is((await client.status({ id: ended.id })).status, "terminated");
    for (const { id } of [living, young]) is((await client.terminate({ id })).ended, 1);
  });
}

// --- the clock --------------------------------------------------------------------------------

const HOUR_MS = 60 * 60 * 1000;

/** All durations that the log has told of. */
function durationsOf({ log }: Daemon): number[] {
  const lines = log.map((line) => JSON.parse(line) as { durationMs?: number });
  return lines.flatMap(({ durationMs }) => durationMs ?? []);
}

function isOnRecord({ state }: Daemon, word: string): boolean {
  return readFileSync(join(state, "journal"), "utf8").includes(word);
}

for (const [name, stepMs] of [
  ["back by an hour", -HOUR_MS],
  ["ahead by an hour", HOUR_MS],
] as const) {
  scenario(`a clock set ${name} changes no grace, no duration and no history`, async (scene) => {
    const clock = join(scene.folder, "clock");
    const set = (ms: number) => writeFileSync(clock, String(ms));
    set(0);
    const preload = `--import ${join(programs, "steps-clock.mjs")}`;
    const env = { NODE_OPTIONS: preload, STEP_MS_FILE: clock };
    const daemon = await startDaemon(scene, { env });
    const client = await daemon.connect();
    const { id: old } = await client.spawn({ command: ["true"] });
    await client.wait({ id: old });
    const sleeping = await sleeper(client);
    const stubborn = await spawnReady(client, testProgram("ignores-term.sh"));
    const begunMs = performance.now();
    const ending = client.terminate({ id: stubborn.id, graceMs: 600 });
    await until("it was told", () => isOnRecord(daemon, '"warned"'));
    set(stepMs);
    const { forced, durationMs } = await ending;
    const tookMs = performance.now() - begunMs;
    ok(forced && tookMs > 500 && tookMs < 6_000, `KILL came after ${tookMs} ms`);
    ok(durationMs > 500 && durationMs <= tookMs + 1, `it is said to have taken ${durationMs} ms`);
    is((await client.wait({ id: sleeping.id, timeoutMs: 50 })).ended, false);
    const { timestamp } = await client.terminate({ id: sleeping.id });
    ok(Math.abs(Date.parse(timestamp) - Date.now() - stepMs) < 60_000, timestamp);
    const { processes } = await client.list({ all: true });
    equal(
      processes.map((one) => one.id),
      [old, sleeping.id, stubborn.id],
    );
    await until("all ends are logged", () => durationsOf(daemon).length === 3);
    ok(durationsOf(daemon).every((ms) => ms >= 0));
    const young = await sleeper(client);
    await crash(daemon);
    const next = await startDaemon(scene, { env });
    const later = await next.connect();
    is((await later.status({ id: old })).exitCode, 0);
    is((await later.terminate({ id: young.id })).ended, 1);
  });

  scenario(
    `a clock set ${name} between two daemons keeps who runs, and all graces`,
    async (scene) => {
      const first = await startDaemon(scene);
      const before = await first.connect();
      const { id: old } = await before.spawn({ command: ["sh", "-c", "exit 3"] });
      await before.wait({ id: old });
      const sleeping = await sleeper(before);
      const file = join(scene.folder, "terms");
      const patient = await spawnReady(before, testProgram("counts-term.sh", file));
      const stubborn = await spawnReady(before, testProgram("ignores-term.sh"));
      await before.terminate({ id: stubborn.id, graceMs: 2_500, wait: false });
      await before.terminate({ id: patient.id, graceMs: 60_000, wait: false });
      await until("it was told", () => existsSync(file));
      await until("that is on record", () => isWarnedTwice(first));
      await crash(first);
      // As if all of it had been written by a clock that differed by so much.
      rewriteJournal(first.state, (value) => shiftTimes(value, -stepMs));
      const next = await startDaemon(scene);
      const client = await next.connect();
      equal([(await client.status({ id: old })).exitCode], [3]);
      is((await client.status({ id: sleeping.id })).status, "running");
      const killed = (await client.wait({ id: stubborn.id, timeoutMs: 8_000 })).process;
      equal([killed.status, killed.signal], ["terminated", "SIGKILL"]);
      if (stepMs < 0) {
        is((await client.status({ id: patient.id })).status, "stopping");
        process.kill(patient.pid, "SIGUSR1");
      }
      const { process: ended } = await client.wait({ id: patient.id, timeoutMs: 5_000 });
      equal([ended.status, ended.exitCode], ["terminated", stepMs < 0 ? 7 : null]);
      is(readFileSync(file, "utf8"), "term\n");
      const { durationMs } = await client.terminate({ id: sleeping.id });
      ok(durationMs >= 0 && durationMs < 5_000, `it is said to have taken ${durationMs} ms`);
      await until("all ends are logged", () => durationsOf(next).length === 3);
      ok(durationsOf(next).every((ms) => ms >= 0));
    },
  );
}

function isWarnedTwice({ state }: Daemon): boolean {
  return readFileSync(join(state, "journal"), "utf8").split('"warned"').length > 2;
}

function shiftTimes(value: object, byMs: number): object {
  const shift = (key: string, given: unknown) =>
    /^(now|started|asked|ended)Ms$/.test(key) ? Number(given) + byMs : given;
  return JSON.parse(JSON.stringify(value, shift)) as object;
}
