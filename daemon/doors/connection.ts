// What every door has: how it is opened, and the Listener that methods know a connection by. What is
// said on a connection is the door's business.

import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { type Event, Refusal } from "../../client/wire.js";
import { oneAtATime } from "../runtime/slices.js";
import type { Listener } from "./feed.js";
import type { Patience } from "./patience.js";

/** Who is at the other end of a connection. */
export type Visitor<C> = {
  readonly uid: number;
  /** Shared by all connections of its program. */
  readonly patience: Patience;
  /** What methods are given of it; called once. */
  callerOf(listener: Listener): C;
};

export type Finish = (mayAsk: boolean) => void;

/** A way in, for those whose first bytes are in its language. */
export type Door<C> = {
  /**
   * Take a connection over, its first bytes in hand. The function returned ends it as soon as what was
   * asked is answered, or a little later where whoever was just told something may ask about it.
   */
  open(socket: Socket, first: Buffer, visitor: Visitor<C>): Finish;
  /** Say no, and nothing more. */
  refuse(socket: Socket, refusal: Refusal): void;
};

/** What a door keeps of its answers before the socket gets them. */
export type Outbox = {
  readonly isWaiting: () => boolean;
  /** Queue one event; false when the reader is too far behind. Null: this door sends no events. */
  readonly notify: ((event: Event) => boolean) | null;
};

export function createListener(socket: Socket, { isWaiting, notify }: Outbox): Listener {
  const closers = new Set<() => void>();
  socket.once("close", () => {
    for (const closer of [...closers]) closer();
    closers.clear();
  });
  const oneByOne = oneAtATime();
  const onClose = (fn: () => void) => {
    // Parts of a batch begin when their client may be long gone: theirs is no other end to wait for.
    if (socket.closed) queueMicrotask(fn);
    else closers.add(fn);
    return () => void closers.delete(fn);
  };
  /** One for all who wait: Node warns of many listeners. */
  let draining: Promise<void> | null = null;
  const drained = () => {
    draining ??= new Promise<void>((resolve) => {
      const done = () => {
        draining = null;
        stay();
        socket.off("drain", done);
        resolve();
      };
      const stay = onClose(done);
      socket.once("drain", done);
    });
    return draining;
  };
  const writable = async () => {
    while (!socket.destroyed) {
      if (isWaiting()) await new Promise(setImmediate);
      else if (socket.writableNeedDrain) await drained();
      else return;
    }
  };
  return {
    get closed() {
      return socket.destroyed;
    },
    takesEvents: notify !== null,
    onClose,
    writable,
    notify: (event) => socket.destroyed || notify === null || notify(event),
    inTurn: (job) =>
      oneByOne(async () => {
        await writable();
        if (socket.destroyed) throw new Refusal("shutting_down", "The connection has ended");
        return job();
      }),
  };
}

/** Write the last words and be gone, whatever the client still sends. */
export function closeWith(socket: Duplex, text: string): void {
  if (socket.writable) socket.end(text, () => socket.destroy());
  else socket.destroy();
}
