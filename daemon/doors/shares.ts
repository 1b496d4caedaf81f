// The one thread, shared among those who ask: nobody waits behind all that others want done. In a turn of
// the event loop that has been long enough, whoever has had more than a share waits for a turn of its own.

import { atTurnsEnd, type Lane } from "../runtime/slices.js";

/** How long calls may go on in one turn of the event loop before the others get theirs. */
const TURN_MS = 0.2;
/** Of the thread, for each who asks: less is held against nobody. */
const SHARE = 0.05;
/** What may be had at once beyond that. */
const CREDIT_MS = 1;
/** What is held against anybody at most: after a fifth of a second without a call all is forgotten. */
const MOST_MS = 10;

/**
 * What somebody has had beyond a share, in milliseconds, when that was last reckoned, and what a call takes
 * on the average of late: one may take longer only because we had no core meanwhile.
 */
export type Tally = { overMs: number; atMs: number; meanMs: number };

/** Of whoever is new a long call is expected: else it would pay to be new each time. */
export function openTally(): Tally {
  return { overMs: 0, atMs: performance.now(), meanMs: CREDIT_MS };
}

/** When the first call of this turn of the loop began; null until one does. */
let turnMs: number | null = null;

function endTurn(): void {
  turnMs = null;
}

/** A call begins now: the time, for `charge` when it is done. */
export function beginCall(): number {
  const nowMs = performance.now();
  if (turnMs === null) {
    turnMs = nowMs;
    atTurnsEnd(endTurn);
  }
  return nowMs;
}

/** Put what a call has taken, from `beganMs` until now, on somebody's tally. */
export function charge(tally: Tally, beganMs: number): void {
  tally.meanMs += (chargeBytes(tally, beganMs) - tally.meanMs) / 4;
}

/** The same of bytes that are no call yet; what they took, in milliseconds. */
export function chargeBytes(tally: Tally, beganMs: number): number {
  const nowMs = performance.now();
  const tookMs = nowMs - beganMs;
  tally.overMs = Math.min(MOST_MS, overAt(tally, beganMs) + tookMs);
  tally.atMs = nowMs;
  return tookMs;
}

function overAt({ overMs, atMs }: Tally, nowMs: number): number {
  return Math.max(0, overMs - SHARE * (nowMs - atMs));
}

/** True while others come first: then await a `turn` in the lane. */
export function isToWait(tally: Tally): boolean {
  const { overMs, meanMs } = tally;
  if (turnMs === null || overMs + meanMs < CREDIT_MS) return false;
  const nowMs = performance.now();
  return nowMs - turnMs > TURN_MS && overAt(tally, nowMs) + meanMs >= CREDIT_MS;
}

/** Among whom somebody waits. */
export function laneOf(tally: Tally): Lane {
  if (tally.meanMs < CREDIT_MS / 2) return "short";
  return overAt(tally, performance.now()) < CREDIT_MS ? "modest" : "calls";
}
