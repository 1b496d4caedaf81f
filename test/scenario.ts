// One scenario, one behaviour: a sentence, a body, a folder of its own, a time limit, and the proof that
// nothing of it lives afterwards. uvu runs it; what uvu lets pass is caught here.

import { spawnSync } from "node:child_process";
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";

export type Scene = {
  /** Empty, and this scenario's alone; its path is the mark by which leftovers are found. */
  readonly folder: string;
  /** Undo something at the end; undone in reverse, all of them, even if one throws. */
  after(undo: () => void | Promise<void>): void;
};

const LIMIT_MS = 15_000;
const LOOK_AGAIN_MS = 10;

/** Run `body` as one test. Throws nothing: uvu prints the outcome and the runner counts it. */
export function scenario(
  name: string,
  body: (scene: Scene) => void | Promise<void>,
  limitMs = LIMIT_MS,
): void {
  const test = suite(name);
  test(name, async () => {
    const folder = mkdtempSync(join(tmpdir(), "procsup-test-"));
    const undos: (() => void | Promise<void>)[] = [];
    const errors: unknown[] = [];
    // A promise that the body left behind must not hide why the body failed.
    const stray = (error: unknown) => void errors.push(error);
    process.on("unhandledRejection", stray);
    const guarded = async (what: string, work: () => void | Promise<void>) => {
      try {
        await within(limitMs, what, async () => work());
      } catch (error) {
        errors.push(error);
      }
    };
    await guarded(name, () => body({ folder, after: (undo) => void undos.push(undo) }));
    for (const undo of undos.reverse()) await guarded(`cleaning up after: ${name}`, undo);
    await guarded(`leftovers of: ${name}`, () => assertNothingLives(folder));
    rmSync(folder, { recursive: true, force: true });
    process.off("unhandledRejection", stray);
    if (errors.length > 0) throw asError(errors);
  });
  test.run();
}

/** A scenario that this machine cannot play: printed with its reason, counted, a failure under CI. */
export function skipped(name: string, reason: string): void {
  const test = suite(`${name}: skipped, ${reason}`);
  test.skip(name);
  test.run();
}

/** As `scenario`, where `why` is null; else it is skipped, and that is why. */
export function scenarioUnless(
  why: string | null,
  name: string,
  body: (scene: Scene) => void | Promise<void>,
  limitMs = LIMIT_MS,
): void {
  if (why === null) scenario(name, body, limitMs);
  else skipped(name, why);
}

/** Null for root, who alone can do `what`. */
export function unlessRoot(what: string): string | null {
  return process.getuid?.() === 0 ? null : `needs root, ${what}`;
}

/** Null when this machine lets us run that, else what it says. */
export function whyNot([file = "", ...args]: readonly string[]): string | null {
  const { status, stderr, error } = spawnSync(file, args, { encoding: "utf8" });
  return status === 0 ? null : String(error ?? stderr).trim();
}

function asError([first, ...rest]: unknown[]): Error {
  const error = first instanceof Error ? first : new Error(`not an Error: ${String(first)}`);
  for (const other of rest) error.message += `\n  and then: ${String(other)}`;
  return error;
}

/** Reject when `work` takes longer than `limitMs`. */
export async function within<T>(limitMs: number, what: string, work: () => Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${limitMs} ms`)), limitMs);
  });
  try {
    return await Promise.race([work(), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Wait for a fact of the kernel: look again every few milliseconds, give up loudly. */
export async function until<T>(
  what: string,
  fact: () => T | Promise<T>,
  limitMs = 5_000,
): Promise<Exclude<T, false | null | undefined>> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    const value = await fact();
    if (value !== false && value !== null && value !== undefined) {
      return value as Exclude<T, false | null | undefined>;
    }
    if (performance.now() > endMs) throw new Error(`${what}: not within ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
  }
}

/** Alive as the kernel has it: in /proc and no zombie, or a zombie leader whose threads run on. */
export function isAlive(pid: number): boolean {
  const fields = statFields(pid);
  if (fields === null) return false;
  const [state] = fields;
  return state !== "X" && (state !== "Z" || Number(fields[17]) > 1);
}

/** What /proc/PID/stat says from the state on: state, parent, group, session; null when it is gone. */
export function statFields(pid: number): string[] | null {
  const stat = readOr(`/proc/${pid}/stat`, "");
  return stat === "" ? null : stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

/**
 * Pids of living processes whose command line or environment holds `mark`, this one excepted. Whoever is older than
 * this process cannot bear one of its making.
 */
export function bearers(mark: string): number[] {
  const born = startTicksOf(process.pid);
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid !== process.pid)
    .filter((pid) => startTicksOf(pid) >= born && isAlive(pid))
    .filter((pid) =>
      [`/proc/${pid}/cmdline`, `/proc/${pid}/environ`].some((file) =>
        readOr(file, "").includes(mark),
      ),
    );
}

/** Clock ticks between boot and start; -1 when it is gone. */
function startTicksOf(pid: number): number {
  return Number(statFields(pid)?.[19] ?? -1);
}

const scratch = Buffer.alloc(64 * 1024);

/** Into the same memory: `readFileSync` makes room of that size for each of hundreds of such files. */
function readOr(file: string, otherwise: string): string {
  try {
    const fd = openSync(file, "r");
    try {
      const bytes = readSync(fd, scratch);
      return bytes < scratch.length
        ? scratch.toString("latin1", 0, bytes)
        : readFileSync(file, "latin1");
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ESRCH" || code === "EACCES" || code === "EPERM") {
      return otherwise;
    }
    throw error;
  }
}

async function assertNothingLives(mark: string): Promise<void> {
  await until(
    "every process of the scenario is gone",
    () => bearers(mark).length === 0,
    2_000,
  ).catch(() => {
    const left = bearers(mark);
    const named = left.map((pid) => `${pid} ${readOr(`/proc/${pid}/cmdline`, "")}`);
    for (const pid of left) process.kill(pid, "SIGKILL");
    throw new Error(`still alive: ${named.join("; ").replaceAll("\0", " ")}`);
  });
}
