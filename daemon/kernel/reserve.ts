// Descriptors kept back for when there is no other left (EMFILE, ENFILE): what runs is still looked at, told
// of and ended then.

import { closeSync, openSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

const BLIND_MS = 50;
/** One to hold a process by, one to read of it meanwhile. */
const KEPT = 2;
const kept: number[] = [];
refill();

/** Run `work`, which opens one descriptor and closes it again; with one kept back if there is no other. */
export function withReserve<T>(work: () => T): T {
  refill(); // what could not be had back the last time
  try {
    return work();
  } catch (error) {
    if (!isExhausted(error)) throw error;
    const fd = kept.pop();
    if (fd === undefined) throw error;
    closeSync(fd);
    try {
      return work();
    } finally {
      refill();
    }
  }
}

/** Wait a little while no descriptor is to be had: nothing can be known then. Rejects for any other error. */
export async function sitOut(error: unknown): Promise<false> {
  if (!isExhausted(error)) throw error;
  await pause(BLIND_MS);
  return false;
}

/** Whether it says that this process, or the system, has no descriptor left. */
export function isExhausted(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "EMFILE" || code === "ENFILE";
}

/** Whether it says that no watch is to be had: the user's are used up (ENOSPC, man 7 inotify), or descriptors are. */
export function isWithoutWatch(error: unknown): boolean {
  return isExhausted(error) || (error as NodeJS.ErrnoException).code === "ENOSPC";
}

function refill(): void {
  try {
    while (kept.length < KEPT) kept.push(openSync("/dev/null", "r"));
  } catch (error) {
    if (!isExhausted(error)) throw error;
  }
}
