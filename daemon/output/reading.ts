// Reading output back, by byte offset or by last lines: where reading may begin, and where a slice is
// cut. Nothing is read that is not needed, and of what was freed not a byte is told.

import type { FileHandle } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { Refusal, type Stream } from "../../client/wire.js";
import { freedBytes, LAST_OFFSET, type OutputFolder, openOutput, outputFile } from "./output.js";

export type Slice = { text: string; from: number; next: number; oldest: number; atEnd: boolean };

export type Range = {
  from?: number | undefined;
  tailLines?: number | undefined;
  maxBytes: number;
  /** What a slice ends with: a whole character, or a whole line where it has one. */
  cut?: "character" | "line";
};

/** How far back `tailLines` looks for line starts: a file without newlines costs no more than this. */
const TAIL_BYTES = 8 * 1024 * 1024;
const BLOCK_BYTES = 64 * 1024;
const NEWLINE = 10;

/** Whoever heeds the signal that somebody opens a leased file has given the lease up by then. */
const LEASE_MS = 100;
const LOOK_AGAIN_MS = 10;

/**
 * The file, or null when this process has none for that stream (`merged`, `null`, never ran). Refusals:
 * `permission_denied` while its command does not give up a lease on it.
 */
async function openForReading(
  folder: OutputFolder,
  id: string,
  stream: Stream,
): Promise<FileHandle | null> {
  const endMs = performance.now() + LEASE_MS;
  for (;;) {
    try {
      return await openOutput(outputFile(folder, id, stream), "read");
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT") return null;
      if (code !== "EAGAIN") throw error;
      if (performance.now() > endMs) throw leased(id, stream, error);
    }
    await pause(LOOK_AGAIN_MS);
  }
}

function leased(id: string, stream: Stream, cause: unknown): Refusal {
  const message = `A process holds a lease on the ${stream} of ${id}: it can be read once that is given up, or broken by the kernel`;
  return new Refusal("permission_denied", message, { id, stream, errno: "EAGAIN" }, { cause });
}

/**
 * Read at most `maxBytes` from byte `from`, or the last `tailLines` lines; `next` is where to go on. A
 * `from` below `oldest` begins at `oldest`, which is a line's beginning where a line was freed in part.
 * No character is split between two reads; bytes that are no UTF-8 come as U+FFFD, offsets count
 * them truly. `writing` says that more may come, so that an unfinished character is waited for.
 * Refusals: those of `openForReading`.
 */
export async function readOutput(
  folder: OutputFolder,
  id: string,
  stream: Stream,
  range: Range,
  writing: boolean,
): Promise<Slice> {
  const path = outputFile(folder, id, stream);
  const handle = await openForReading(folder, id, stream);
  if (handle === null) return { text: "", from: 0, next: 0, oldest: 0, atEnd: true };
  try {
    for (let freed = await freedBytes(folder, path, handle); ; ) {
      const slice = await readSlice(handle, freed, range, writing);
      if (slice.text === "") return slice;
      // Freed while it was read, it may be zeros.
      freed = await freedBytes(folder, path, handle);
      if (freed <= slice.from) return slice;
    }
  } finally {
    await handle.close();
  }
}

async function readSlice(
  handle: FileHandle,
  freed: number,
  { from: wanted = 0, tailLines, maxBytes, cut = "character" }: Range,
  writing: boolean,
): Promise<Slice> {
  const size = Math.min((await handle.stat()).size, LAST_OFFSET);
  const oldest = freed === 0 ? 0 : await firstLine(handle, Math.min(freed, size), size);
  const from =
    tailLines === undefined
      ? Math.min(Math.max(wanted, oldest), size)
      : await startOfTail(handle, oldest, size, tailLines);
  const bytes = await readAt(handle, from, Math.min(maxBytes, size - from));
  const mayGoOn = writing || from + bytes.length < size;
  const whole = mayGoOn ? bytes.subarray(0, wholeBytes(bytes, cut)) : bytes;
  const next = from + whole.length;
  return { text: whole.toString("utf8"), from, next, oldest, atEnd: next === size };
}

async function readAt(handle: FileHandle, position: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(length), 0, length, position);
  return buffer.subarray(0, bytesRead);
}

/** How far behind what was freed, or is not looked at, a line's beginning is looked for. */
const LINE_BYTES = 8 * 1024;

/** The first line that is still whole, else the first character. */
async function firstLine(
  handle: FileHandle,
  from: number,
  size: number,
  lookBytes = LINE_BYTES,
): Promise<number> {
  const block = await readAt(handle, from, Math.min(lookBytes, size - from));
  const line = block.indexOf(NEWLINE) + 1;
  if (line > 0 && line < block.length) return from + line;
  const character = block.subarray(0, LONGEST).findIndex((byte) => !isContinuation(byte));
  return from + Math.max(0, character);
}

/**
 * The offset of the last `lines` lines, found from the end, or of as many as lie in TAIL_BYTES; the file's last newline
 * starts no line.
 */
async function startOfTail(
  handle: FileHandle,
  oldest: number,
  size: number,
  lines: number,
): Promise<number> {
  if (lines === 0) return size;
  const floor = Math.max(oldest, size - TAIL_BYTES);
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
  // Below the floor there is more. A byte before it, lest a line that begins right there be passed over.
  return floor === oldest ? oldest : await firstLine(handle, floor - 1, size, BLOCK_BYTES);
}

function wholeBytes(bytes: Buffer, cut: "character" | "line"): number {
  const lines = cut === "line" ? bytes.lastIndexOf(NEWLINE) + 1 : 0;
  return lines > 0 ? lines : wholeCharacters(bytes);
}

/** Bytes of the longest character in UTF-8. */
const LONGEST = 4;

/** How many leading bytes end with a whole character: all, or all but an unfinished last one. */
function wholeCharacters(bytes: Buffer): number {
  let start = bytes.length - 1;
  while (start > bytes.length - LONGEST && isContinuation(bytes[start] ?? 0)) start -= 1;
  const isWhole = start + lengthOfCharacter(bytes[start] ?? 0) <= bytes.length;
  return isWhole ? bytes.length : Math.max(0, start);
}

function isContinuation(byte: number): boolean {
  return (byte & 0xc0) === 0x80;
}

/** By its first byte; RFC 3629, 3. A byte that starts nothing stands for itself. */
function lengthOfCharacter(first: number): number {
  if (first >= 0xf0) return 4;
  if (first >= 0xe0) return 3;
  return first >= 0xc0 ? 2 : 1;
}
