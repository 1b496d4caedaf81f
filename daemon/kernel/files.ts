// Files as Node does not know them: folders in places where none can be made, holes, and news of growth without a watcher
// for each.

import { existsSync, mkdirSync } from "node:fs";
import { constants } from "node:os";
import { dirname } from "node:path";
import koffi from "koffi";
import { check, failure, libc } from "./native.js";

/**
 * Make a folder and those above it, as far as they are missing. Node's own way goes on for ever where mkdir(2)
 * says ENOENT below a folder that is there, as in /proc.
 */
export function makeFolder(path: string, mode: number): void {
  if (existsSync(path)) return;
  makeFolder(dirname(path), mode);
  try {
    mkdirSync(path, mode);
  } catch (error) {
    if (!existsSync(path)) throw error; // somebody else may have made it meanwhile
  }
}

// --- holes in files ---------------------------------------------------------------------------

// On a thread of the pool: both wait for whoever is in the middle of a write to that file. An off_t has 64 bits on x64
// and arm64; the names that end in 64 are gone from musl 1.2.4.
const fallocateFn = libc.func("int fallocate(int fd, int mode, int64_t offset, int64_t length)");
const lseekFn = libc.func("int64_t lseek(int fd, int64_t offset, int whence)");

/** The result of a call on a thread of the pool, rounded beyond 2^53, and its errno. */
function inPool(fn: ReturnType<typeof libc.func>, ...args: number[]): Promise<[number, number]> {
  return new Promise((resolve, reject) => {
    fn.async(...args, (error: Error | null, result: number | bigint) => {
      if (error === null) resolve([Number(result), koffi.errno()]);
      else reject(error);
    });
  });
}

/**
 * Give the blocks of a part of a file back; it reads as zeros from then on, and the size stays. Only
 * whole blocks are freed, the rest is zeroed. Rejects with EOPNOTSUPP where the file system cannot.
 * man 2 fallocate.
 */
export async function punchHole(fd: number, offset: number, length: number): Promise<void> {
  const FALLOC_FL_KEEP_SIZE = 1;
  const FALLOC_FL_PUNCH_HOLE = 2;
  const mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
  const [result, errno] = await inPool(fallocateFn, fd, mode, offset, length);
  if (result < 0) throw failure("fallocate", errno);
}

/**
 * The offset of the first byte from there on that lies in no hole; null when there is none. Where a file system
 * does not tell, `from`: everything is data. Moves the file's own offset. man 2 lseek.
 */
export async function firstData(fd: number, from: number): Promise<number | null> {
  const SEEK_DATA = 3;
  const [result, errno] = await inPool(lseekFn, fd, from, SEEK_DATA);
  if (result >= 0) return result;
  if (errno === constants.errno.ENXIO) return null;
  if (errno === constants.errno.EINVAL) return from;
  throw failure("lseek", errno);
}

// --- files that grow --------------------------------------------------------------------------

const inotifyInitFn = libc.func("int inotify_init1(int flags)");
const inotifyAddFn = libc.func("int inotify_add_watch(int fd, const char *path, uint32_t mask)");
const inotifyRemoveFn = libc.func("int inotify_rm_watch(int fd, int watch)");

/** A descriptor that tells what happens to watched files. Throws EMFILE. man 2 inotify_init1. */
export function inotifyInit(): number {
  const IN_NONBLOCK = 0o4000;
  const IN_CLOEXEC = 0o2000000;
  return check(inotifyInitFn(IN_NONBLOCK | IN_CLOEXEC), "inotify_init1");
}

/** A number for the watch, not used again soon. Throws ENOENT, ENOSPC. man 2 inotify_add_watch. */
export function inotifyAdd(fd: number, path: string, mask: number): number {
  return check(inotifyAddFn(fd, path, mask >>> 0), "inotify_add_watch");
}

/** Nothing happens when the kernel has dropped it already. man 2 inotify_rm_watch. */
export function inotifyRemove(fd: number, watch: number): void {
  const result: number = inotifyRemoveFn(fd, watch);
  if (result < 0 && koffi.errno() !== constants.errno.EINVAL) check(result, "inotify_rm_watch");
}
