// Lines on their way to a stream that may stand still: a pipe or terminal whose reader has stopped must not stop
// the daemon. They wait in a bounded queue; what does not fit is dropped and counted.

import { closeSync, constants, fstatSync, openSync, writeSync } from "node:fs";

const QUEUE_BYTES = 1024 * 1024;
const RETRY_MS = 20;

/** Bytes taken, or `full`: not now. */
export type Write = (bytes: Buffer) => number | "full";

export type Sink = {
  readonly write: Write;
  /** A line of its own, about lines that were lost. */
  readonly loss: (message: string) => string;
  queue: Buffer[];
  queuedBytes: number;
  dropped: number;
  waiting: boolean;
};

export function createSink(write: Write, loss: Sink["loss"]): Sink {
  return { write, loss, queue: [], queuedBytes: 0, dropped: 0, waiting: false };
}

/** Writes to a copy of `shared` that does not block. */
export function streamSink(shared: number, loss: Sink["loss"]): Sink {
  const fd = nonBlocking(shared);
  return createSink((bytes) => tryWrite(fd, bytes), loss);
}

/** A descriptor of our own for a pipe or terminal; O_NONBLOCK on `fd` itself would hit its sharers. */
function nonBlocking(fd: number): number {
  try {
    const stat = fstatSync(fd);
    if (!stat.isFIFO() && !stat.isCharacterDevice()) return fd;
    const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants;
    const own = openSync(`/proc/self/fd/${fd}`, O_WRONLY | O_NONBLOCK | O_NOCTTY);
    if (own > 2) return own;
    closeSync(own);
    return fd;
  } catch {
    return fd; // closed, or a terminal of another user: the shared, blocking one has to do
  }
}

/** Queue a line; one that does not fit any more is dropped and counted. */
export function put(sink: Sink, line: string): void {
  const bytes = Buffer.from(line);
  if (sink.queuedBytes + bytes.length > QUEUE_BYTES) {
    sink.dropped += 1;
    return;
  }
  sink.queue.push(bytes);
  sink.queuedBytes += bytes.length;
  drainIn(sink, 0);
}

/** The lines of one turn are written together. */
function drainIn(sink: Sink, ms: number): void {
  if (sink.waiting) return;
  sink.waiting = true;
  const now = () => {
    sink.waiting = false;
    if (!drain(sink)) drainIn(sink, RETRY_MS);
  };
  setTimeout(now, ms).unref();
}

/** True when nothing is left to write, also because nobody can read it any more. */
export function drain(sink: Sink): boolean {
  for (;;) {
    const [first] = sink.queue;
    if (first === undefined) {
      if (sink.dropped === 0) return true;
      const loss = Buffer.from(sink.loss(`${sink.dropped} lines dropped`));
      sink.dropped = 0;
      sink.queue.push(loss);
      sink.queuedBytes += loss.length;
      continue;
    }
    const written = sink.write(first);
    if (written === "full") return false;
    sink.queuedBytes -= written;
    if (written === first.length) sink.queue.shift();
    else sink.queue[0] = first.subarray(written);
  }
}

/** Bytes written; all of them when the stream is gone for good, because there is nobody to tell. */
function tryWrite(fd: number, bytes: Buffer): number | "full" {
  try {
    return writeSync(fd, bytes);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EAGAIN" ? "full" : bytes.length;
  }
}
