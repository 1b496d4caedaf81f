// The cap on output: how much of each stream is kept. The oldest bytes are freed where they lie, so that
// offsets stay true for ever. A stream at rest costs nothing, a busy one a look every quarter second.

import { fstatSync, ftruncateSync, statSync, writeSync } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import type { Stream } from "../../client/wire.js";
import { firstData, punchHole } from "../kernel/files.js";
import { isWithoutWatch } from "../kernel/reserve.js";
import { tellOnce } from "../runtime/log.js";
import { createSlices, oneAtATime } from "../runtime/slices.js";
import { watchGrowth } from "./growth.js";
import {
  BLOCK_BYTES,
  freedBytes,
  LAST_OFFSET,
  type OutputFolder,
  openOutput,
  outputFile,
  streams,
} from "./output.js";

/** From one look at what grows to the next: the cap holds within this, plus the time to free. */
const LOOK_MS = 250;
/** Without a watch to be had, until one is asked for again. */
const BLIND_MS = 10_000;

/**
 * Keep the streams of a process below the folder's cap, whatever they hold already, until the function
 * returned is called; that takes a last look. A cap that cannot be held is told in the log.
 */
export function capOutput(folder: OutputFolder, id: string): () => void {
  const stops = streams.map((stream) => capStream({ folder, id, stream }));
  return () => {
    for (const stop of stops) stop();
  };
}

type Capped = { readonly folder: OutputFolder; readonly id: string; readonly stream: Stream };

/**
 * A new stream is looked at until it stands still. Then a watch waits for its next byte: told of every
 * write, we would be as busy as the writer.
 */
function capStream(capped: Capped): () => void {
  const path = outputFile(capped.folder, capped.id, capped.stream);
  const complain = createComplaint(capped);
  const freeing = createFreeing(capped, path, complain, () => wake());
  let size = -1; // of no file, so that the first look finds it changed
  let isOver = false;
  let unwatch: (() => void) | null = null;

  const look = (): void => {
    try {
      const now = sizeOf(path);
      if (now === null) busy.delete(look);
      else freeing.hold(now, size);
      if (now === size && !freeing.isHeldUp()) {
        if (isOver) busy.delete(look);
        else rest();
      }
      size = now ?? 0;
    } catch (error) {
      complain(error as NodeJS.ErrnoException);
    }
  };
  const rest = (): void => {
    unwatch = tryWatch(capped, path, wake);
    if (unwatch === null) return;
    busy.delete(look);
    // It may have grown since it was looked at, with nobody to tell.
    if (sizeOf(path) !== size) wake();
  };
  const wake = (): void => {
    unwatch?.();
    unwatch = null;
    lookSoon(look);
  };
  lookSoon(look);
  return () => {
    isOver = true;
    unwatch?.();
    busy.delete(look);
    look();
  };
}

type Complaint = ReturnType<typeof createComplaint>;

/** Frees the file as it grows; `again` asks for another look when a lease on it held that up. */
function createFreeing(capped: Capped, path: string, complain: Complaint, again: () => void) {
  const { capBytes, freed: known } = capped.folder;
  let freed = 0;
  let isDue = false;
  let isLeased = false;

  const enforce = async (): Promise<void> => {
    if (isDue) return;
    isDue = true;
    try {
      freed = await inTurn(() => {
        isDue = false; // what comes after this is for the next turn
        return free(capped, path);
      });
      isLeased = false;
      complain(null);
    } catch (error) {
      isLeased = (error as NodeJS.ErrnoException).code === "EAGAIN";
      if (isLeased) again(); // nobody is told when a lease ends
      complain(error as NodeJS.ErrnoException);
    }
  };
  const hold = (now: number, before: number): void => {
    if (now < before) {
      // Emptied by whoever opened it anew: nothing of it is freed any more.
      freed = 0;
      known.delete(path);
    }
    if (now - freed > capBytes) void enforce();
    else isLeased = false;
  };
  return { hold, isHeldUp: () => isLeased };
}

/** Null where there is no such file: the process has none of that stream, or was forgotten. */
function sizeOf(path: string): number | null {
  return statSync(path, { throwIfNoEntry: false })?.size ?? null;
}

/** Tells the log of a trouble once, until it is over. */
function createComplaint({ folder, id, stream }: Capped) {
  const complain = tellOnce(({ message }: NodeJS.ErrnoException) => {
    folder.log.warning("cannot hold the cap of output", { id, stream, error: message });
  });
  return (error: NodeJS.ErrnoException | null): void => {
    if (error?.code === "ENOENT") return; // it has ended, and was forgotten meanwhile
    complain(error);
  };
}

// --- when to look ---------------------------------------------------------------------------

/** The looks at whatever has grown of late, or cannot be watched. */
const busy = new Set<() => void>();
let isLooking = false;
let blindUntilMs = 0;

function lookSoon(look: () => void): void {
  busy.add(look);
  if (!isLooking) lookLater();
}

function lookLater(): void {
  isLooking = true;
  setTimeout(() => void lookAround(), LOOK_MS).unref();
}

async function lookAround(): Promise<void> {
  const pause = createSlices();
  for (const look of [...busy]) {
    if (busy.has(look)) look();
    await pause();
  }
  isLooking = false;
  if (busy.size > 0) lookLater();
}

/** Null when the system has no watch left: then looks have to do. */
function tryWatch({ folder, id, stream }: Capped, path: string, grown: () => void) {
  if (performance.now() < blindUntilMs) return null;
  try {
    return watchGrowth(path, grown);
  } catch (error) {
    if (!isWithoutWatch(error)) throw error;
    blindUntilMs = performance.now() + BLIND_MS;
    const { message } = error as Error;
    folder.log.debug("no watch for output", { id, stream, error: message });
    return null;
  }
}

// --- freeing --------------------------------------------------------------------------------

/** Freed in one call: a writer has to wait for about half a millisecond of it. */
const PUNCH_BYTES = 8 * 1024 * 1024;
/** How far below the cap it goes at most, so as not to have to come back for every block. */
const STEP_BYTES = 1024 * 1024;

/** Each may hold a thread of the pool while it waits for a writer. */
const inTurn = oneAtATime();

/** Free what lies beyond the cap; how many bytes have been freed in all. */
async function free(capped: Capped, path: string): Promise<number> {
  const { capBytes, punches } = capped.folder;
  const handle = await openOutput(path, "change");
  try {
    const { size, blksize } = await handle.stat();
    const freed = await freedBytes(capped.folder, path, handle);
    if (size - freed <= capBytes) return freed;
    if (!punches) {
      const end = await truncate(capped, handle, freed);
      capped.folder.freed.set(path, end);
      return end;
    }
    const end = endOfFreed(size, capBytes, Math.max(BLOCK_BYTES, blksize));
    await punch(handle.fd, freed, end);
    return end;
  } finally {
    await handle.close();
  }
}

/**
 * A hole is passed at once: a command can have made one of exabytes. It is punched, too, since blocks that were
 * allocated ahead (fallocate) count as a hole.
 */
async function punch(fd: number, from: number, end: number): Promise<void> {
  for (let at = from; at < end; ) {
    const data = Math.min((await firstData(fd, at)) ?? end, end);
    const next = data > at ? data : Math.min(at + PUNCH_BYTES, end);
    await punchHole(fd, at, next - at);
    at = next;
  }
}

/** In whole steps of whole blocks, and never beyond the end. */
function endOfFreed(size: number, capBytes: number, block: number): number {
  const down = (bytes: number, unit: number) => bytes - (bytes % unit);
  const step = Math.max(block, down(Math.min(STEP_BYTES, capBytes / 8), block));
  return Math.min(down(size - capBytes + step - 1, step), down(size, block));
}

/** Kept of the newest where the file system cannot punch; less where the cap is smaller. */
const TAIL_BYTES = 1024 * 1024;

/**
 * For file systems that cannot punch: empty the file, then make it as long again, which frees all of it
 * and keeps offsets true; then put its last bytes back, if nobody has written meanwhile. What is
 * written between two of these calls is lost: counted, but for the last microseconds. A `kill -9`
 * among them makes offsets begin anew.
 */
async function truncate(
  { folder, id, stream }: Capped,
  handle: FileHandle,
  freed: number,
): Promise<number> {
  const { fd } = handle;
  const length = Math.min(TAIL_BYTES, folder.capBytes / 2);
  const from = endOf(fd) - length;
  const tail = await handle.read(Buffer.allocUnsafe(length), 0, length, from);
  let end = endOf(fd);
  for (let slipped = 1; slipped > 0; end += slipped) {
    ftruncateSync(fd, 0);
    slipped = fstatSync(fd).size;
  }
  end = Math.min(end, LAST_OFFSET);
  ftruncateSync(fd, end);
  const isWhole = end === from + tail.bytesRead;
  if (isWhole) writeSync(fd, tail.buffer, 0, tail.bytesRead, from);
  const begin = isWhole ? from : end;
  const lost = { id, stream, lost: begin - freed };
  folder.log.warning("output was truncated: its file system cannot punch holes", lost);
  return begin;
}

function endOf(fd: number): number {
  return Math.min(fstatSync(fd).size, LAST_OFFSET);
}
