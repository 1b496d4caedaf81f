// Newline framing over a byte stream, used by both ends. It owns the bytes of unfinished lines and
// refuses to let one grow past its cap; what a line says is not its business.

import { isUtf8 } from "node:buffer";

const NEWLINE = 10;

/** One step of reading: a line, or why there is none. */
export type Line =
  | { at: "line"; text: string }
  | { at: "more" }
  | { at: "tooLong" }
  | { at: "notUtf8" };

export type LineReader = {
  /** Take in bytes as they came from the stream. */
  push(chunk: Buffer): void;
  /** The next line; `more` when the bytes so far hold none. After `tooLong` the reader is of no use. */
  next(): Line;
  /** True when the stream stands in the middle of a line. */
  unfinished(): boolean;
};

/** Bytes that arrive in pieces and are wanted as one. */
export type Heap = {
  readonly length: number;
  add(bytes: Buffer): void;
  /** All of them; the heap is empty again. */
  take(): Buffer;
};

/**
 * Each byte is copied a bounded number of times however they arrive: a growing string would be
 * quadratic, a list of chunks would cost a hundred bytes for each byte that arrives alone.
 */
export function createHeap(): Heap {
  let held = Buffer.alloc(0);
  let length = 0;
  return {
    get length() {
      return length;
    },
    add(bytes) {
      if (length + bytes.length > held.length) {
        const larger = Buffer.allocUnsafe(Math.max(2 * held.length, length + bytes.length));
        held.copy(larger, 0, 0, length);
        held = larger;
      }
      bytes.copy(held, length);
      length += bytes.length;
    },
    take() {
      const all = held.subarray(0, length);
      held = Buffer.alloc(0);
      length = 0;
      return all;
    },
  };
}

/**
 * Cut a stream of bytes into lines of at most `maxBytes` (newline not counted), on demand, so that
 * whoever reads can stop between two lines of one chunk. Every byte is searched and copied a
 * bounded number of times however the stream is split.
 */
export function createLineReader(maxBytes: number): LineReader {
  const held = createHeap();
  const nothing = Buffer.alloc(0);
  let rest: Buffer = nothing;

  function takeLine(end: number): Buffer {
    const tail = rest.subarray(0, end);
    rest = end + 1 < rest.length ? rest.subarray(end + 1) : nothing;
    if (held.length === 0) return tail;
    held.add(tail);
    return held.take();
  }

  return {
    push(chunk) {
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    },
    next() {
      if (rest.length === 0) return { at: "more" };
      const end = rest.indexOf(NEWLINE);
      if (held.length + (end < 0 ? rest.length : end) > maxBytes) return { at: "tooLong" };
      if (end < 0) {
        held.add(rest);
        rest = nothing;
        return { at: "more" };
      }
      const line = takeLine(end);
      return isUtf8(line) ? { at: "line", text: line.toString("utf8") } : { at: "notUtf8" };
    },
    unfinished: () => held.length + rest.length > 0,
  };
}
