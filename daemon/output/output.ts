// The output of processes: files that the children themselves append to. Output never passes through
// the daemon on its way to disk. What lies in a file is reading.ts's, how much of it cap.ts's.

import { closeSync, constants, fchownSync, openSync } from "node:fs";
import { type FileHandle, open, readdir, rm, stat, unlink } from "node:fs/promises";
import { join } from "node:path";
import { type OutputMode, Refusal, type Stream } from "../../client/wire.js";
import { firstData, makeFolder, punchHole } from "../kernel/files.js";
import { isWithoutWatch } from "../kernel/reserve.js";
import { CannotStart } from "../runtime/claim.js";
import { openStream } from "../runtime/journald.js";
import type { Log } from "../runtime/log.js";
import { LEAST_OUTPUT_BYTES } from "../runtime/settings.js";
import { watchGrowth } from "./growth.js";

/** A place for the output of many processes: `<folder>/<id>.stdout` and `.stderr`. */
export type OutputFolder = {
  readonly path: string;
  /** How much is kept of each stream. */
  readonly capBytes: number;
  /** Whether the file system frees what lies in the middle of a file. */
  readonly punches: boolean;
  /** Where it does not: how much was freed of which file, as far as it is known. */
  readonly freed: Map<string, number>;
  readonly log: Log;
};

/** What a child gets as its stdout and stderr, null where none is kept; the caller closes them. */
export type OutputFds = { stdout: number | null; stderr: number | null };

/** The two that a process has. */
export const streams: readonly Stream[] = ["stdout", "stderr"];

/** What is freed is a multiple of this: the block of nearly every file system. */
export const BLOCK_BYTES = 4096;

/** Beyond it no offset is an exact number: a command can make its file longer, but nobody reads on there. */
export const LAST_OFFSET = Number.MAX_SAFE_INTEGER;

/** Make `path` ready, readable by this user only. Throws CannotStart. */
export async function openOutputFolder(
  path: string,
  parts: Pick<OutputFolder, "capBytes" | "log">,
): Promise<OutputFolder> {
  try {
    makeFolder(path, 0o700);
    return { path, ...parts, punches: await canPunch(path), freed: new Map() };
  } catch (cause) {
    const { message } = cause as Error;
    const fix = "choose another directory with --state";
    throw new CannotStart(`cannot keep output: ${message}; ${fix}`, { cause });
  }
}

/** Remove the output of whoever is not known any more: nobody could ask for it. */
export async function sweepOutput(
  { path }: OutputFolder,
  isKnown: (id: string) => boolean,
): Promise<void> {
  for (const name of await readdir(path)) {
    const [id = ""] = name.split(".");
    if (!isKnown(id)) await rm(join(path, name), { force: true });
  }
}

/**
 * Found by trying, on an empty file: that needs no room. Where not even a file can be made the answer is that
 * of nearly every file system. Leaves nothing behind, but for a crash.
 */
async function canPunch(path: string): Promise<boolean> {
  const probe = join(path, ".probe");
  try {
    const handle = await open(probe, "w", 0o600);
    await punchHole(handle.fd, 0, BLOCK_BYTES).finally(() => handle.close());
    return true;
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (["ENOSPC", "EDQUOT"].includes(code)) return true;
    if (["EOPNOTSUPP", "ENOTSUP", "ENOSYS", "ENODEV"].includes(code)) return false;
    throw error;
  } finally {
    await rm(probe, { force: true });
  }
}

/** The file of a stream, whether it is there or not. */
export function outputFile(folder: OutputFolder, id: string, stream: Stream): string {
  return join(folder.path, `${id}.${stream}`);
}

/**
 * Create the files of one process, or with `journal` its stream into journald, in which it is called
 * `title`. Throws with the errno of open(2) or connect(2); nothing is left behind then.
 */
export function createOutput(
  folder: OutputFolder,
  id: string,
  mode: OutputMode,
  title: string,
): OutputFds {
  if (mode === "null") return { stdout: null, stderr: null };
  if (mode === "journal") {
    const stream = openStream(title);
    return { stdout: stream, stderr: stream };
  }
  // O_APPEND: every write lands at the end, whoever else holds the file. man 2 open.
  const stdout = openSync(outputFile(folder, id, "stdout"), "ax", 0o600);
  if (mode === "merged") return { stdout, stderr: stdout };
  try {
    return { stdout, stderr: openSync(outputFile(folder, id, "stderr"), "ax", 0o600) };
  } catch (error) {
    closeSync(stdout);
    throw error;
  }
}

/**
 * Make the files a user's own, so that a command of theirs can open them anew by /dev/stdout. Nobody
 * reaches them by path: the folder stays ours. man 2 fchown.
 */
export function giveOutput({ stdout, stderr }: OutputFds, uid: number, gid: number): void {
  if (stdout !== null) fchownSync(stdout, uid, gid);
  if (stderr !== null && stderr !== stdout) fchownSync(stderr, uid, gid);
}

/** Close the daemon's copies: from here on the file belongs to the child alone. */
export function closeOutput({ stdout, stderr }: OutputFds): void {
  if (stdout !== null) closeSync(stdout);
  if (stderr !== null && stderr !== stdout) closeSync(stderr);
}

export async function removeOutput(folder: OutputFolder, id: string): Promise<void> {
  for (const stream of streams) {
    const path = outputFile(folder, id, stream);
    folder.freed.delete(path);
    await unlink(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error; // not every mode has both files
    });
  }
}

/** The size of a stream so far, as far as it can be read; 0 when there is no such file. */
export async function outputSize(
  folder: OutputFolder,
  id: string,
  stream: Stream,
): Promise<number> {
  try {
    return Math.min((await stat(outputFile(folder, id, stream))).size, LAST_OFFSET);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return 0;
    throw error;
  }
}

/**
 * Open the file of a stream. Rejects with EAGAIN while its command holds a lease on it, as any may: without O_NONBLOCK
 * that is waited for, 45 s, on a thread of the pool that everybody needs. man 2 fcntl, Leases.
 */
export function openOutput(path: string, access: "read" | "change"): Promise<FileHandle> {
  const { O_RDONLY, O_RDWR, O_NONBLOCK } = constants;
  return open(path, (access === "read" ? O_RDONLY : O_RDWR) | O_NONBLOCK);
}

/**
 * How many of a stream's first bytes have been freed, asked of the file itself: it is the only one
 * that still knows after a crash.
 */
export async function freedBytes(
  folder: OutputFolder,
  path: string,
  handle: FileHandle,
): Promise<number> {
  const { size, blocks } = await handle.stat();
  if (size <= LEAST_OUTPUT_BYTES) return 0;
  if (folder.punches) return (await firstData(handle.fd, 0)) ?? size;
  const end = Math.min(size, LAST_OFFSET);
  const known = folder.freed.get(path) ?? (await guessFreed(handle, end, blocks * 512));
  folder.freed.set(path, known);
  return Math.min(known, size);
}

/**
 * Of a file system that knows no holes, but counts blocks: what was written while the file was being
 * truncated lies at its beginning, so some zeros more are passed over. Once only: on ramfs a hole that
 * is read takes memory, and is counted from then on.
 */
async function guessFreed(handle: FileHandle, size: number, diskBytes: number): Promise<number> {
  const ZEROS_BYTES = 64 * 1024;
  const toBlock = (round: (blocks: number) => number, bytes: number) =>
    BLOCK_BYTES * round(bytes / BLOCK_BYTES);
  const least = toBlock(Math.floor, toBlock(Math.ceil, size) - diskBytes);
  if (least <= 0) return 0;
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(ZEROS_BYTES), 0, ZEROS_BYTES, least);
  const zeros = buffer.subarray(0, bytesRead).findIndex((byte) => byte !== 0);
  return zeros < 0 ? least + bytesRead : least + zeros;
}

/**
 * Call `grown` once, when a stream is written to or emptied next; the function returned takes that back.
 * Null when this process has no such stream. Throws `limit_exceeded` when the system has no watch to give.
 */
export function watchOutput(
  folder: OutputFolder,
  id: string,
  stream: Stream,
  grown: () => void,
): (() => void) | null {
  try {
    return watchGrowth(outputFile(folder, id, stream), grown);
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return null;
    if (!isWithoutWatch(error)) throw error;
    throw noWatchLeft(code, error);
  }
}

function noWatchLeft(code: string, cause: unknown): Refusal {
  const message = `The system has no inotify watch left (${code}): raise fs.inotify.max_user_watches`;
  return new Refusal("limit_exceeded", message, { limit: "inotify", errno: code }, { cause });
}
