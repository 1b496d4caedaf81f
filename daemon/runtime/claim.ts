// What a daemon has to itself: locks, and a state directory with the key of all that it makes.

import { randomInt } from "node:crypto";
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { makeFolder } from "../kernel/files.js";
import { tryLock } from "../kernel/native.js";

/** Something about this machine keeps the daemon from starting; the message names it and the fix. */
export class CannotStart extends Error {}

/**
 * Make the state directory ready and this daemon's alone, for as long as it lives: the kernel
 * releases the lock, also after `kill -9`. Returns the directory's key, 31 bits, the same at each
 * start: `newKey`, if it has none yet. Throws CannotStart.
 */
export function claimState(path: string, newKey: number = randomInt(1, 2 ** 31)): number {
  try {
    makeFolder(path, 0o700);
    checkOwner(path);
    claim(join(path, "lock"), `another procsupd uses the state directory ${path}`);
    return readKey(join(path, "key"), newKey);
  } catch (cause) {
    if (cause instanceof CannotStart) throw cause;
    const { message } = cause as Error;
    throw new CannotStart(`cannot use the state directory: ${message}; choose one with --state`, {
      cause,
    });
  }
}

/** As `claimState`, for a directory that was ours and was removed under us; else nothing is done. */
export function reclaimState(path: string, key: number): void {
  if (!existsSync(join(path, "lock"))) claimState(path, key);
}

/** Whoever owns it could put a journal of theirs into it. */
function checkOwner(path: string): void {
  const { uid } = statSync(path);
  const own = process.geteuid?.() ?? uid;
  if (uid === own) return;
  const fix = `chown ${own} ${path}, or choose another with --state`;
  throw new CannotStart(`the state directory ${path} belongs to uid ${uid}, not to ${own}: ${fix}`);
}

/** Written beside and renamed, so that a crash leaves a whole key or none. */
function readKey(path: string, newKey: number): number {
  if (!existsSync(path)) {
    writeFileSync(`${path}.new`, `${newKey}\n`, { mode: 0o600 });
    renameSync(`${path}.new`, path);
  }
  const key = Number(readFileSync(path, "utf8"));
  if (Number.isInteger(key) && key > 0 && key < 2 ** 31) return key;
  throw new CannotStart(`${path} holds no key: remove it, if no process of an earlier run lives`);
}

/**
 * Take the lock at `path`; throws CannotStart, saying `taken`, when another has it. The descriptor stays open
 * until the process ends; the file stays, since removing one is a race.
 */
export function claim(path: string, taken: string): void {
  const fd = openSync(path, "a", 0o600);
  if (tryLock(fd)) return;
  closeSync(fd);
  throw new CannotStart(taken);
}
