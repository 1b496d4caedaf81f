// What every section of the benchmark stands on: a temp folder, the daemon as it ships, and programs of
// our own in bare Node processes. All of it is gone when the scene ends, also after Ctrl-C.

import { type ChildProcess, fork, type Serializable, spawn } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { type Client, connect, Disconnected } from "../../client/client.js";
import { bearers, type Scene, until, within } from "../scenario.js";

const daemonFile = resolve(import.meta.dirname, "../../procsupd.cjs");

const STOP_LIMIT_MS = 15_000;
const SWEEP_LIMIT_MS = 5_000;

/** A scene that can be broken off: nothing new is started once `signal` is aborted. */
export type Stage = Scene & { readonly signal: AbortSignal };

/**
 * Play with a folder of its own, then undo everything in reverse, whatever the play came to. Rejects
 * with the play's own error, else with the first of cleaning up.
 */
export async function onStage<T>(
  signal: AbortSignal,
  play: (stage: Stage) => Promise<T>,
): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "procsup-bench-"));
  const undos: (() => void | Promise<void>)[] = [];
  const outcome = await settled(() =>
    orAborted(signal, play({ folder, signal, after: (undo) => void undos.push(undo) })),
  );
  const cleanups = [...undos.reverse(), () => sweep(folder)];
  const errors: unknown[] = [];
  for (const cleanup of cleanups) {
    const done = await settled(() => within(STOP_LIMIT_MS, "cleaning up", async () => cleanup()));
    if (!done.ok) errors.push(done.error);
  }
  rmSync(folder, { recursive: true, force: true });
  if (!outcome.ok) throw outcome.error;
  if (errors.length > 0) throw errors[0];
  return outcome.value;
}

type Settled<T> = { ok: true; value: T } | { ok: false; error: unknown };

async function settled<T>(work: () => Promise<T>): Promise<Settled<T>> {
  try {
    return { ok: true, value: await work() };
  } catch (error) {
    return { ok: false, error };
  }
}

function orAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
  });
  return Promise.race([work, aborted]);
}

/** Whatever still bears the folder's path in its command line or environment is ours, and too much. */
async function sweep(folder: string): Promise<void> {
  await until(
    "every process of the benchmark is gone",
    () => {
      const left = bearers(folder);
      for (const pid of left) kill(pid);
      return left.length === 0;
    },
    SWEEP_LIMIT_MS,
  );
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** The daemon, its socket, and one connection of our client library to it. */
export type Daemon = { readonly pid: number; readonly socket: string; readonly client: Client };

/**
 * Start the daemon and connect to it. Its log goes to a file, so that reading it costs no time while
 * something is measured. The group is its own: Ctrl-C is for the benchmark, which then stops it.
 */
export async function startDaemon(
  { folder, signal, after }: Stage,
  settings: readonly string[] = [],
): Promise<Daemon> {
  signal.throwIfAborted();
  const place = mkdtempSync(join(folder, "daemon-"));
  const socket = join(place, "s");
  const logFile = join(place, "log");
  const log = openSync(logFile, "a");
  const child = spawn(
    process.execPath,
    [daemonFile, "--socket", socket, "--state", join(place, "state"), ...settings],
    {
      detached: true,
      env: { PATH: process.env["PATH"] ?? "", HOME: place },
      stdio: ["ignore", log, log],
    },
  );
  closeSync(log);
  after(() => end(child, () => child.kill("SIGTERM")));
  const client = await until("the daemon is ready", () => {
    if (child.exitCode !== null) throw new Error(`it exited: ${readFileSync(logFile, "utf8")}`);
    return connectOrNull(socket);
  });
  after(() => client.close());
  return { pid: pidOf(child), socket, client };
}

async function connectOrNull(socket: string): Promise<Client | null> {
  try {
    return await connect({ socket });
  } catch (error) {
    if (error instanceof Disconnected) return null;
    throw error;
  }
}

/** A program of this folder in a process of its own, answering one question at a time. */
export type Program<Question, Answer> = {
  readonly pid: number;
  ask(question: Question): Promise<Answer>;
};

/** Start `<name>.js` of this folder as a bare Node process. It ends when its channel is closed. */
export async function startProgram<Question extends Serializable, Answer>(
  { folder, signal, after }: Stage,
  name: string,
): Promise<Program<Question, Answer>> {
  signal.throwIfAborted();
  const child = fork(join(import.meta.dirname, `${name}.js`), {
    detached: true,
    execArgv: [],
    env: { ...process.env, PROCSUP_BENCH: folder },
  });
  after(() => end(child, () => child.disconnect()));
  const ask = (question: Question) =>
    new Promise<Answer>((done, fail) => {
      const ended = () => fail(new Error(`${name} ended before it answered`));
      child.once("exit", ended);
      child.once("message", (answer) => {
        child.off("exit", ended);
        // The program's own file types its questions and answers; the caller names both.
        done(answer as Answer);
      });
      child.send(question, (error) => {
        if (error !== null) fail(error);
      });
    });
  return { pid: pidOf(child), ask };
}

function pidOf(child: ChildProcess): number {
  if (child.pid === undefined) throw new Error(`cannot start ${child.spawnfile}`);
  return child.pid;
}

/** The gentle way, so that it ends its own children; the sweep is for what that leaves. */
async function end(child: ChildProcess, ask: () => void): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise<void>((done) => child.once("exit", () => done()));
  ask();
  await exited;
}

/** Start `count` more sleeps under the daemon. */
export async function spawnSleeps({ client }: Daemon, count: number): Promise<void> {
  for (let made = 0; made < count; made++) await client.spawn({ command: [...sleep] });
}

/** What is run in every section, by procsup and by the floor. */
export const sleep = ["sleep", "1000"] as const;
