// How a tree is ended: stop signal and CONT, the grace, KILL and CONT, proof. Nothing else in procsup
// sends a fatal signal of its own accord. It knows a containment, not processes, callers or tables.

import { Refusal, type Signal } from "../../client/wire.js";
import { commandLine, readStat, type Stat, waitsIn } from "../kernel/procfs.js";
import type { Containment } from "./containment.js";

/** A member that outlived the ladder, and what the kernel says of it. */
export type Survivor = {
  pid: number;
  ppid: number;
  /** One letter, as in /proc/PID/stat. */
  state: string;
  command: string;
  /** The kernel function that it waits in, where the kernel tells. */
  waitsIn: string | null;
  why: string;
};

export type Outcome = {
  /** True only when no living member was left. */
  gone: boolean;
  /** KILL found somebody. */
  forced: boolean;
  /** Living members that were brought down. */
  ended: number;
  durationMs: number;
  survivors: Survivor[];
};

export type Ladder = {
  /** Never rejects for what members do; it ends when the tree is gone or KILL has had its time. */
  readonly outcome: Promise<Outcome>;
  /** Resolves when the stop signal was sent; never when the ladder began below that rung. */
  readonly warned: Promise<void>;
  /** Go on to KILL now. */
  force(): void;
  /** Let at most `graceMs` from now remain of the grace; never lengthens it. */
  hasten(graceMs: number): void;
};

/** `stopSignal` is null where it was sent before, by an earlier daemon: then only the grace is left. */
export type Descent = { stopSignal: Signal | null; graceMs: number; force: boolean };

/** How long KILL may take to show. Longer means uninterruptible: the caller is told who and why. */
const KILL_WAIT_MS = 5_000;
/** The first pause before KILL is sent again; each further one is twice as long. */
const KILL_AGAIN_MS = 50;

/**
 * Start down the ladder. Whoever needs the same tree ended joins `outcome`; one tree never has two
 * ladders. SIGCONT follows each signal because a stopped process keeps it pending (man 7 signal).
 */
export function startLadder(tree: Containment, descent: Descent): Ladder {
  const grace = createDeadline(descent.force ? 0 : descent.graceMs);
  let warn: () => void;
  const warned = new Promise<void>((resolve) => {
    warn = resolve;
  });
  return {
    outcome: descend(tree, descent, grace, () => warn()).finally(grace.cancel),
    warned,
    force: () => grace.hasten(0),
    hasten: grace.hasten,
  };
}

async function descend(
  tree: Containment,
  descent: Descent,
  grace: Deadline,
  warned: () => void,
): Promise<Outcome> {
  const begunMs = performance.now();
  const seen = new Set<number>();
  const note = (pids: readonly number[]) => {
    for (const pid of pids) seen.add(pid);
  };

  let gone = false;
  let survivors: Survivor[] = [];
  let forced = false;
  if (!descent.force) {
    const { stopSignal } = descent;
    const warning = tree.warn(...(stopSignal === null ? [] : [stopSignal]), "SIGCONT");
    // It waits for a pause under way, and whoever forces does not.
    const reach = await Promise.race([warning, grace.passed.then(() => null)]);
    if (reach !== null) {
      grace.begin();
      note(reach.found);
      if (stopSignal !== null) warned();
      gone = await firstOf(tree.emptied(), grace.passed);
    }
  }
  if (!gone) {
    // Nobody may be left for it: the last went as the grace ended.
    survivors = await kill(tree, (pids) => {
      forced ||= pids.length > 0;
      note(pids);
    });
  }
  return {
    gone: survivors.length === 0,
    forced,
    ended: seen.size - survivors.length,
    durationMs: Math.round(performance.now() - begunMs),
    survivors,
  };
}

/** KILL until nobody is left, again and again for whoever was on its way in; who outlives all of it. */
async function kill(
  tree: Containment,
  note: (pids: readonly number[]) => void,
): Promise<Survivor[]> {
  const endMs = performance.now() + KILL_WAIT_MS;
  for (let waitMs = KILL_AGAIN_MS; ; waitMs *= 2) {
    const { found, refused } = await tree.kill();
    note(found);
    const leftMs = endMs - performance.now();
    const round = createDeadline(Math.max(KILL_AGAIN_MS, Math.min(waitMs, leftMs)));
    round.begin();
    const gone = await firstOf(tree.emptied(), round.passed);
    round.cancel();
    // No news is no proof: the kernel forgets some where there are too many. man 7 inotify, IN_Q_OVERFLOW.
    if (gone || (await tree.isEmpty())) return [];
    if (performance.now() < endMs) continue;
    const living = (await tree.members()).flatMap((pid) => readStat(pid) ?? []);
    note(living.map(({ pid }) => pid));
    if (living.length > 0) return living.map((one) => describe(one, refused.includes(one.pid)));
    if (performance.now() > endMs + KILL_WAIT_MS) return [unseen];
  }
}

/** Who cannot be found, though something lives: told as little as nobody. */
export const unseen: Survivor = {
  pid: 0,
  ppid: 0,
  state: "?",
  command: "[unknown]",
  waitsIn: null,
  why: "lives where nobody can look for it",
};

/** True when the first promise was first. */
function firstOf(wanted: Promise<void>, limit: Promise<void>): Promise<boolean> {
  return Promise.race([wanted.then(() => true), limit.then(() => false)]);
}

function describe(member: Stat, refused: boolean): Survivor {
  const { pid, ppid, state } = member;
  const why = refused
    ? "the kernel refused the signal (EPERM)"
    : state === "D"
      ? "in uninterruptible sleep (state D): KILL waits for the kernel"
      : "KILL was sent and has not shown yet";
  const command = commandLine(member, null, COMMAND_BYTES);
  return { pid, ppid, state, command, waitsIn: waitsIn(pid), why };
}

/** The answer that names survivors is one line: so many of them, and so much of each one's command. */
const SURVIVORS_NAMED = 500;
const COMMAND_BYTES = 256;

/** `termination_failed`; the text says how many survivors there are, and begins with `what` was to be done. */
export function refusalOf(survivors: readonly Survivor[], what: string): Refusal {
  const named = survivors.slice(0, SURVIVORS_NAMED);
  const message = `${what}: ${survivalText(survivors)}`;
  return new Refusal("termination_failed", message, { survivors: named });
}

/** Who is still alive, and why: one line. */
export function survivalText(survivors: readonly Survivor[]): string {
  const named = survivors
    .slice(0, 5)
    .map(({ pid, command, why }) => `PID ${pid} (${command}) ${why}`);
  const more = survivors.length > named.length ? ["..."] : [];
  return `${survivors.length} still alive: ${[...named, ...more].join("; ")}`;
}

type Deadline = {
  readonly passed: Promise<void>;
  begin(): void;
  hasten(ms: number): void;
  cancel(): void;
};

/** A moment that comes `ms` after it was begun, and can be brought forward, also before. */
function createDeadline(ms: number): Deadline {
  let pass: () => void;
  const passed = new Promise<void>((resolve) => {
    pass = resolve;
  });
  let atMs = Number.POSITIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;
  const hasten = (soonerMs: number) => {
    const soonerAtMs = performance.now() + soonerMs;
    if (soonerAtMs >= atMs) return;
    atMs = soonerAtMs;
    clearTimeout(timer);
    timer = setTimeout(() => pass(), soonerMs);
  };
  return { passed, begin: () => hasten(ms), hasten, cancel: () => clearTimeout(timer) };
}
