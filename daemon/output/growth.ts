// Who wants to know when a file grows: one inotify instance for all of them, a one-shot watch for each file.
// The kernel drops a watch at its first event, so that a busy writer wakes us once. man 7 inotify.

import { closeSync } from "node:fs";
import { inotifyAdd, inotifyInit, inotifyRemove } from "../kernel/files.js";
import { Pipe } from "../kernel/pidfd.js";

const IN_MODIFY = 0x0002;
const IN_Q_OVERFLOW = 0x4000;
const IN_ONESHOT = 0x8000_0000;
/** Bytes of an event, without the name that only a folder's have. */
const EVENT_BYTES = 16;

/** By the number of their watch: for a file that is watched already the kernel says the same one again. */
type Waiting = Map<number, Set<() => void>>;
type Growth = { readonly fd: number; readonly waiting: Waiting };

/** Kept once it is open: to close it blocks for the kernel's next grace period, 10 to 25 ms. */
let growth: Growth | null = null;

/**
 * Call `grown` once, when `path` is written to or truncated next; of one file each function waits but once.
 * The function returned gives the watch back. Throws ENOENT where there is no such file, ENOSPC or EMFILE
 * when the system has no watch left.
 */
export function watchGrowth(path: string, grown: () => void): () => void {
  growth ??= openGrowth();
  const { fd, waiting } = growth;
  const watch = inotifyAdd(fd, path, IN_MODIFY | IN_ONESHOT);
  const those = waiting.get(watch) ?? new Set();
  waiting.set(watch, those.add(grown));
  return () => {
    those.delete(grown);
    // Told, and waiting again, another may have the same number: the kernel keeps a watch whose event it dropped.
    if (those.size > 0 || waiting.get(watch) !== those) return;
    waiting.delete(watch);
    inotifyRemove(fd, watch);
  };
}

/** It keeps no program alive. */
function openGrowth(): Growth {
  const fd = inotifyInit();
  const waiting: Waiting = new Map();
  const handle = new Pipe(0);
  const failed = handle.open(fd) || handle.readStart();
  if (failed !== 0) {
    closeSync(fd);
    throw new Error(`cannot read from inotify: libuv says ${failed}`);
  }
  handle.onread = (bytes) => {
    for (const watch of watchesIn(Buffer.from(bytes ?? new ArrayBuffer(0)), waiting)) {
      const those = waiting.get(watch) ?? [];
      waiting.delete(watch);
      for (const grown of those) grown();
    }
  };
  handle.unref();
  return { fd, waiting };
}

/** Whose event came; all of them when some were dropped. */
function watchesIn(events: Buffer, waiting: Waiting): number[] {
  const watches: number[] = [];
  for (let at = 0; at + EVENT_BYTES <= events.length; ) {
    const mask = events.readUInt32LE(at + 4);
    if (mask & IN_Q_OVERFLOW) return [...waiting.keys()];
    if (mask & IN_MODIFY) watches.push(events.readInt32LE(at));
    at += EVENT_BYTES + events.readUInt32LE(at + 12);
  }
  return watches;
}
