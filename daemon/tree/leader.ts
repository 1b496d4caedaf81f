// The first process of a tree, held by a pidfd: how its end is noticed and read. A child of ours is
// reaped here, once no tracer keeps it from us, as is whoever else has become our child; one that an earlier
// daemon started is reaped by whoever inherited it, and its end is read from what the kernel still tells.

import { closeSync } from "node:fs";
import { constants } from "node:os";
import { setTimeout as pause } from "node:timers/promises";
import { signals } from "../../client/wire.js";
import {
  type Ended,
  fromWaitStatus,
  peekEnded,
  pidfdEnded,
  reapEnded,
  waitEnded,
} from "../kernel/native.js";
import { hold, isUnreaped, watchEnd } from "../kernel/pidfd.js";
import { isLiving, isShown, readStat } from "../kernel/procfs.js";
import type { Exit } from "../life/state.js";
import type { Leader } from "./containment.js";
import { GATE } from "./gate.js";

/** Hold our own child, which nobody else reaps: its number cannot have gone. */
export function holdChild(pid: number): Leader {
  const pidfd = hold(pid);
  if (pidfd === null) throw new Error(`the child ${pid} has vanished`);
  held.add(pid);
  const { leader, end } = createLeader(pid, pidfd, () => {
    reap();
    close();
    sweepSoon(); // others of its tree may have ended after it
  });
  let isLetGo = false;
  const reap = () => {
    if (isLetGo) return;
    isLetGo = true;
    held.delete(pid);
    if (waitEnded(pidfd, "reap") === null) reapLater(pid);
    sweepSoon();
  };
  const close = watchEnd(pidfd, () => {
    // Of a traced one /proc tells, at once: who traces it may never let go.
    end(waitEnded(pidfd, "peek") ?? lookAtEnd(leader)?.ended ?? null);
    setImmediate(reap);
  });
  return leader;
}

/** Children whose end is still to be told, or was a moment ago. */
const held = new Set<number>();

/**
 * Children that have ended and that a tracer keeps from us. No descriptor holds them (whoever traces its own
 * processes could use up all): a number that we have not reaped is nobody else's.
 */
const traced = new Set<number>();
const FIRST_LOOK_MS = 10;
const LAST_LOOK_MS = 60_000;
let nextLook: NodeJS.Timeout | undefined;

function reapLater(pid: number): void {
  traced.add(pid);
  lookIn(FIRST_LOOK_MS);
}

/** Each pause is twice the last: a debugger may stay for days, and an idle daemon sleeps. */
function lookIn(waitMs: number): void {
  clearTimeout(nextLook);
  nextLook = setTimeout(() => {
    for (const pid of traced) if (reapEnded(pid)) traced.delete(pid);
    if (traced.size > 0) lookIn(Math.min(2 * waitMs, LAST_LOOK_MS));
  }, waitMs).unref();
}

/** So many in one turn of the event loop: a tree may leave thousands, and nobody is to wait for them. */
const SWEPT_AT_ONCE = 16;
let isSweepDue = false;

function sweepSoon(): void {
  if (!isSweepDue) setImmediate(sweep);
  isSweepDue = true;
}

/**
 * Reap who has ended and is held by nobody: let go by a tracer, or made by a leader as its sibling, which is a
 * child of ours then (man 2 clone, CLONE_PARENT). The kernel shows one at a time: where that is not for us, no
 * other is seen, and the next end of a leader is soon enough.
 */
function sweep(): void {
  isSweepDue = false;
  for (let count = 0; count < SWEPT_AT_ONCE; count++) {
    const pid = peekEnded();
    if (pid === null || isReapedElsewhere(pid)) return;
    reapEnded(pid);
    traced.delete(pid);
  }
  sweepSoon();
}

/** Node reaps what it has started: it is of our session, and none that descends from a leader ever is. */
function isReapedElsewhere(pid: number): boolean {
  return held.has(pid) || readStat(pid)?.session === ownSession;
}

const ownSession = readStat(process.pid)?.session;

/**
 * Hold a leader that is no child of ours. `pidfd` belongs to it from now on; when that was kept for us
 * while no daemon lived, it tells the end also of one that was reaped meanwhile. Who has ended already,
 * and shows it, has ended at once: a zombie is not alive for a moment more.
 */
export function holdAdopted(pid: number, pidfd: number): Leader {
  const { leader, end } = createLeader(pid, pidfd, () => close());
  const over = lookAtEnd(leader);
  if (over !== null) end(over.ended);
  const close =
    over === null ? watchEnd(pidfd, () => void readEnd(leader).then(end)) : () => closeSync(pidfd);
  return leader;
}

/** A leader that had ended before anybody could hold it: how, nobody can know. */
export function departed(pid: number): Leader {
  const { leader, end } = createLeader(pid, -1, () => undefined);
  end(null);
  return leader;
}

function createLeader(
  pid: number,
  pidfd: number,
  release: () => void,
): { leader: Leader; end: (ended: Ended | null) => void } {
  let report: () => void;
  const exited = new Promise<void>((resolve) => {
    report = resolve;
  });
  const leader: Leader = {
    pid,
    pidfd,
    exit: null,
    neverRan: false,
    exited,
    release() {
      leader.pidfd = -1;
      release();
    },
  };
  const end = (ended: Ended | null) => {
    // Unreaped after the look: so it was this very process that was looked at.
    leader.neverRan = isGateFailure(ended) && readStat(pid)?.comm === GATE && isUnreaped(pidfd);
    leader.exit = exitOf(ended);
    report();
  };
  return { leader, end };
}

/** The longest pause before an unreaped zombie is looked at again. */
const LONGEST_PAUSE_MS = 200;

/**
 * How a process ended that is not our child: null when it has not, or nothing shows it yet; `ended`
 * null when the kernel tells nobody any more. A zombie shows it in /proc, to its own user; once reaped, the
 * pidfd tells it.
 */
function lookAtEnd({ pid, pidfd }: Leader): { ended: Ended | null } | null {
  const stat = isShown(pid) ? readStat(pid) : null;
  // Asked after the look: so it was this very process that was looked at.
  if (!isUnreaped(pidfd)) return { ended: pidfdEnded(pidfd) };
  return stat === null || isLiving(stat) ? null : { ended: fromWaitStatus(stat.waitStatus) };
}

/** The same, of one that has ended: where nothing shows how, its parent may take its time to reap it. */
async function readEnd(leader: Leader): Promise<Ended | null> {
  for (let waitMs = 1; ; waitMs = Math.min(2 * waitMs, LONGEST_PAUSE_MS)) {
    const over = lookAtEnd(leader);
    if (over !== null) return over.ended;
    await pause(waitMs);
  }
}

/** Its exit codes where it could not join, or could not become the command. */
function isGateFailure(ended: Ended | null): boolean {
  return ended?.by === "code" && ended.code >= 125 && ended.code <= 127;
}

/** Of two names for one number (SIGABRT, SIGIOT) the first is the usual one, so it is entered last. */
const signalNames = new Map([...signals].reverse().map((name) => [constants.signals[name], name]));

/** A real-time signal has no name on the wire: that end is told as unknown rather than wrongly. */
function exitOf(ended: Ended | null): Exit {
  if (ended === null) return { by: "unknown" };
  if (ended.by === "code") return ended;
  const signal = signalNames.get(ended.signal);
  return signal === undefined ? { by: "unknown" } : { by: "signal", signal };
}
