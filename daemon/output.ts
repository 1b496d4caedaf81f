// The output of processes: files that the children themselves append to, read back by byte offset.
// Output never passes through the daemon on its way to disk; offsets are for ever valid.

import { closeSync, openSync, watch } from "node:fs";
import { type FileHandle, mkdir, open, readdir, rm, unlink } from "node:fs/promises";
import { join } from "node:path";
import { Refusal, type Stream } from "../client/wire.js";
import { openStream } from "./journald.js";

/** A place for the output of many processes: `<folder>/<id>.stdout` and `.stderr`. */
export type OutputFolder = { readonly path: string };

export type OutputMode = "split" | "merged" | "null" | "journal";

/** What a child gets as its stdout and stderr, null where none is kept; the caller closes them. */
export type OutputFds = { stdout: number | null; stderr: number | null };

export type Slice = { text: string; from: number; next: number; oldest: number; atEnd: boolean };

/** How far back `tailLines` looks for line starts: a file without newlines costs no more than this. */
const TAIL_BYTES = 8 * 1024 * 1024;
const BLOCK_BYTES = 64 * 1024;
const NEWLINE = 10;

/**
 * Make `path` ready, readable by this user only, and remove what an earlier daemon left in it: its
 * processes are not known any more, so nobody could ask for their output.
 */
export async function openOutputFolder(path: string): Promise<OutputFolder> {
  await mkdir(path, { recursive: true, mode: 0o700 });
  for (const name of await readdir(path)) await rm(join(path, name), { force: true });
  return { path };
}

function file(folder: OutputFolder, id: string, stream: Stream): string {
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
  const stdout = openSync(file(folder, id, "stdout"), "ax", 0o600);
  if (mode === "merged") return { stdout, stderr: stdout };
  try {
    return { stdout, stderr: openSync(file(folder, id, "stderr"), "ax", 0o600) };
  } catch (error) {
    closeSync(stdout);
    throw error;
  }
}

/** Close the daemon's copies: from here on the file belongs to the child alone. */
export function closeOutput({ stdout, stderr }: OutputFds): void {
  if (stdout !== null) closeSync(stdout);
  if (stderr !== null && stderr !== stdout) closeSync(stderr);
}

export async function removeOutput(folder: OutputFolder, id: string): Promise<void> {
  for (const stream of ["stdout", "stderr"] as const) {
    await unlink(file(folder, id, stream)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error; // not every mode has both files
    });
  }
}

/** The file, or null when this process has none for that stream (`merged`, `null`, `journal`, never ran). */
async function openForReading(path: string): Promise<FileHandle | null> {
  try {
    return await open(path, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/**
 * Read at most `maxBytes` from byte `from`, or the last `tailLines` lines. `next` is where to go on.
 * No character is split between two reads; bytes that are no UTF-8 come as U+FFFD, offsets count
 * them truly. `writing` says that more may come, so that an unfinished character is waited for.
 */
export async function readOutput(
  folder: OutputFolder,
  id: string,
  stream: Stream,
  range: { from?: number | undefined; tailLines?: number | undefined; maxBytes: number },
  writing: boolean,
): Promise<Slice> {
  const handle = await openForReading(file(folder, id, stream));
  if (handle === null) return { text: "", from: 0, next: 0, oldest: 0, atEnd: true };
  try {
    const { size } = await handle.stat();
    const from =
      range.tailLines === undefined
        ? Math.min(range.from ?? 0, size)
        : await startOfTail(handle, size, range.tailLines);
    const bytes = await readAt(handle, from, Math.min(range.maxBytes, size - from));
    const mayGoOn = writing || from + bytes.length < size;
    const whole = mayGoOn ? bytes.subarray(0, wholeCharacters(bytes)) : bytes;
    const next = from + whole.length;
    return { text: whole.toString("utf8"), from, next, oldest: 0, atEnd: next === size };
  } finally {
    await handle.close();
  }
}

async function readAt(handle: FileHandle, position: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(length), 0, length, position);
  return buffer.subarray(0, bytesRead);
}

/** The offset of the last `lines` lines, found from the end; the file's last newline starts no line. */
async function startOfTail(handle: FileHandle, size: number, lines: number): Promise<number> {
  if (lines === 0) return size;
  const floor = Math.max(0, size - TAIL_BYTES);
  let missing = lines;
  for (let end = size; end > floor; end -= BLOCK_BYTES) {
    const start = Math.max(floor, end - BLOCK_BYTES);
    const block = await readAt(handle, start, end - start);
    for (let at = block.length - 1; at >= 0; at--) {
      if (block[at] !== NEWLINE || start + at === size - 1) continue;
      missing -= 1;
      if (missing === 0) return start + at + 1;
    }
  }
  return floor;
}

/** How many leading bytes end with a whole character: all, or all but an unfinished last one. */
function wholeCharacters(bytes: Buffer): number {
  const LONGEST = 4;
  const isContinuation = (at: number) => ((bytes[at] ?? 0) & 0xc0) === 0x80;
  let start = bytes.length - 1;
  while (start > bytes.length - LONGEST && isContinuation(start)) start -= 1;
  const isWhole = start + lengthOfCharacter(bytes[start] ?? 0) <= bytes.length;
  return isWhole ? bytes.length : Math.max(0, start);
}

/** By its first byte; RFC 3629, 3. A byte that starts nothing stands for itself. */
function lengthOfCharacter(first: number): number {
  if (first >= 0xf0) return 4;
  if (first >= 0xe0) return 3;
  return first >= 0xc0 ? 2 : 1;
}

/** The size of a stream so far; 0 when there is no such file. */
export async function outputSize(
  folder: OutputFolder,
  id: string,
  stream: Stream,
): Promise<number> {
  const handle = await openForReading(file(folder, id, stream));
  if (handle === null) return 0;
  try {
    return (await handle.stat()).size;
  } finally {
    await handle.close();
  }
}

/**
 * Call `changed` whenever a stream may have grown, from inotify (man 7 inotify), never by polling.
 * The function returned stops it. Null when this process has no such stream. Throws
 * `limit_exceeded` when the system has no watch to give.
 */
export function watchOutput(
  folder: OutputFolder,
  id: string,
  stream: Stream,
  changed: () => void,
): (() => void) | null {
  try {
    const watcher = watch(file(folder, id, stream), changed);
    watcher.on("error", changed);
    return () => watcher.close();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return null;
    if (code !== "ENOSPC" && code !== "EMFILE") throw error;
    throw noWatchLeft(code, error);
  }
}

function noWatchLeft(code: string, cause: unknown): Refusal {
  const message = `The system has no inotify watch left (${code}): raise fs.inotify.max_user_watches`;
  return new Refusal("limit_exceeded", message, { limit: "inotify", errno: code }, { cause });
}
