// The one thread, shared among those who ask: nobody waits behind all that others want done. In a turn of
// the event loop that has been long enough, whoever has had more than a share waits for a turn of its own.

import { atTurnsEnd } from "./slices.js";

/** How long calls may go on in one turn of the event loop before the others get theirs. */
const TURN_MS = 0.2;
/** Of the thread, for each who asks: less is held against nobody. */
const SHARE = 0.05;
/** What may be had at once beyond that. Whoever is new has none: else it would pay to be new each time. */
const CREDIT_MS = 1;
/** What is held against anybody at most: after a fifth of a second without a call all is forgotten. */
const MOST_MS = 10;

/** What somebody has had beyond a share, in milliseconds, and when that was last reckoned. */
export type Account = { overMs: number; atMs: number };

export function openAccount(): Account {
  return { overMs: CREDIT_MS, atMs: performance.now() };
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

/** Put what a call has taken, from `beganMs` until now, on somebody's account. */
export function charge(account: Account, beganMs: number): void {
  const nowMs = performance.now();
  account.overMs = Math.min(MOST_MS, overAt(account, beganMs) + nowMs - beganMs);
  account.atMs = nowMs;
}

function overAt({ overMs, atMs }: Account, nowMs: number): number {
  return Math.max(0, overMs - SHARE * (nowMs - atMs));
}

/** True while others come first: then await a `turn`. */
export function isToWait(account: Account): boolean {
  if (turnMs === null || account.overMs < CREDIT_MS) return false;
  const nowMs = performance.now();
  return nowMs - turnMs > TURN_MS && overAt(account, nowMs) >= CREDIT_MS;
}
