// Who is told what: subscriptions, and the backpressure of those who do not read. It knows processes
// only by their wire shape and output only by offset.

import { type Event, limits, type Process, Refusal, type Stream } from "../../client/wire.js";
import { type OutputFolder, outputSize, streams, watchOutput } from "../output/output.js";
import { readOutput, type Slice } from "../output/reading.js";
import { createSlices } from "../runtime/slices.js";

/** The other end of a connection, as far as news is concerned. */
export type Listener = {
  /** Queue one event; false when the reader is too far behind, and then it was not taken. */
  notify(event: Event): boolean;
  /** Resolves when events are taken again, or when the connection has ended. */
  writable(): Promise<void>;
  /**
   * Run jobs that are long or have large answers one at a time, each only once the last answer was taken.
   * Refusal: `shutting_down`, told to nobody, once the connection has ended.
   */
  inTurn<T>(job: () => Promise<T>): Promise<T>;
  readonly closed: boolean;
  /** False where no event can be sent: an HTTP connection says only what it was asked. */
  readonly takesEvents: boolean;
  /** Call `fn` once at the end of the connection, soon if that is over; the function returned takes it back. */
  onClose(fn: () => void): () => void;
};

export type Subscription = {
  readonly id: string;
  readonly listener: Listener;
  /** Null: every process whose owner it `sees`. */
  readonly processId: string | null;
  readonly sees: (owner: Process["owner"]) => boolean;
  dropped: number;
  readonly followers: Follower[];
  forget(): void;
};

/** `finish`: send what is left, then stop; resolves when that is done. */
type Follower = { finish(): Promise<void>; stop(): void };

export type Feed = {
  readonly byListener: Map<Listener, Map<string, Subscription>>;
  /** The same by the process that they are for; null: for all of them. */
  readonly byProcess: Map<string | null, Set<Subscription>>;
  /** Who is yet to be told what. */
  due: { subscription: Subscription; process: Process; ended: boolean }[];
  isTelling: boolean;
  lastId: number;
};

export function createFeed(): Feed {
  return { byListener: new Map(), byProcess: new Map(), due: [], isTelling: false, lastId: 0 };
}

/**
 * Tell `listener` of every change of one process, or of all. Throws `limit_exceeded` past the
 * connection's bound, `invalid_request` where no event can be sent. Ends with the connection.
 */
export function subscribe(
  feed: Feed,
  listener: Listener,
  processId: string | null,
  sees: Subscription["sees"] = () => true,
): Subscription {
  if (!listener.takesEvents) {
    const message = "subscribe: over HTTP no event can be sent: use line JSON-RPC on this socket";
    throw new Refusal("invalid_request", message, {});
  }
  const own = feed.byListener.get(listener) ?? new Map<string, Subscription>();
  if (own.size >= limits.subscriptions) {
    const most = `${limits.subscriptions} subscriptions`;
    throw new Refusal("limit_exceeded", `A connection may hold ${most}: unsubscribe first`, {
      limit: "subscriptions",
    });
  }
  feed.lastId += 1;
  const id = `s${feed.lastId}`;
  const forget = listener.onClose(() => drop(feed, listener, id));
  const fresh: Subscription = { id, listener, processId, sees, dropped: 0, followers: [], forget };
  own.set(id, fresh);
  feed.byListener.set(listener, own);
  feed.byProcess.set(processId, (feed.byProcess.get(processId) ?? new Set()).add(fresh));
  return fresh;
}

/** False when this connection holds no such subscription. */
export function unsubscribe(feed: Feed, listener: Listener, id: string): boolean {
  const subscription = feed.byListener.get(listener)?.get(id);
  if (subscription === undefined) return false;
  subscription.forget();
  drop(feed, listener, id);
  return true;
}

function isHeld(feed: Feed, { id, listener }: Subscription): boolean {
  return feed.byListener.get(listener)?.has(id) === true;
}

function drop(feed: Feed, listener: Listener, id: string): void {
  const own = feed.byListener.get(listener);
  const subscription = own?.get(id);
  if (own === undefined || subscription === undefined) return;
  for (const follower of subscription.followers) follower.stop();
  own.delete(id);
  if (own.size === 0) feed.byListener.delete(listener);
  const { processId } = subscription;
  const others = feed.byProcess.get(processId);
  others?.delete(subscription);
  if (others?.size === 0) feed.byProcess.delete(processId);
}

/** A change of status; `describe` is called at once, and only if somebody asked for changes of it. */
export type Change = {
  readonly id: string;
  readonly owner: Process["owner"];
  readonly ended: boolean;
  describe(): Process;
};

/**
 * Send a change of status to all who asked for it, in the order of the changes; an end to whom follows the
 * output only behind all of it. Where very many have asked, others get their turns in between.
 */
export function publish(feed: Feed, { id, owner, ended, describe }: Change): void {
  const all = [id, null].flatMap((key) => [...(feed.byProcess.get(key) ?? [])]);
  if (all.length === 0) return;
  const process = describe();
  for (const subscription of all) {
    if (subscription.sees(owner)) feed.due.push({ subscription, process, ended });
  }
  if (!feed.isTelling) void tellAll(feed);
}

async function tellAll(feed: Feed): Promise<void> {
  feed.isTelling = true;
  const slice = createSlices();
  for (const { subscription, process, ended } of feed.due) {
    const turn = slice();
    if (turn !== undefined) await turn;
    if (!isHeld(feed, subscription)) continue;
    const event: Event = { event: "status", subscription: subscription.id, process };
    const { followers } = subscription;
    if (!ended || followers.length === 0) tell(subscription, event);
    else void finish(followers).then(() => tell(subscription, event));
  }
  feed.due = [];
  feed.isTelling = false;
}

async function finish(followers: readonly Follower[]): Promise<void> {
  await Promise.all(followers.map((follower) => follower.finish()));
}

function tell(subscription: Subscription, event: Event): void {
  if (subscription.dropped > 0 || !subscription.listener.notify(event)) miss(subscription);
}

/** Count what a slow reader misses, and tell it how much once it reads again. */
function miss(subscription: Subscription): void {
  subscription.dropped += 1;
  if (subscription.dropped > 1) return;
  void subscription.listener.writable().then(() => {
    const { id, dropped, listener } = subscription;
    subscription.dropped = 0;
    listener.notify({ event: "dropped", subscription: id, count: dropped });
  });
}

/** Whose output is followed; `failed` hears of a read that did not work, tried again at the next change. */
export type Source = {
  readonly id: string;
  isWriting(): boolean;
  failed(error: Error): void;
};

/** Send the output of a process to a subscription, from here on until the process has ended. */
export async function follow(
  feed: Feed,
  subscription: Subscription,
  folder: OutputFolder,
  source: Source,
): Promise<void> {
  const { followers } = subscription;
  for (const stream of streams) {
    const from = await outputSize(folder, source.id, stream);
    if (!isHeld(feed, subscription)) return;
    const follower = followStream(subscription, folder, source, stream, from);
    if (follower !== null) followers.push(follower);
  }
  // Its end may have been told before there was anybody to finish.
  if (!source.isWriting()) void finish(followers);
}

/** How long the beginning of a line waits for the rest of it: a prompt is to be seen, too. */
const LINE_MS = 100;

/**
 * The file itself is the buffer: a reader that falls behind is simply served later, and told how much
 * of it the cap has freed before it could be sent.
 */
function followStream(
  subscription: Subscription,
  folder: OutputFolder,
  source: Source,
  stream: Stream,
  start: number,
): Follower | null {
  const { listener } = subscription;
  const torn = createPause(() => wake());
  let from = start;
  let busy = false;
  let pumped = Promise.resolve();
  let again = false;
  let over = false;

  async function pass(): Promise<void> {
    const range = { from, maxBytes: limits.logBytes, cut: "line" } as const;
    const isWriting = source.isWriting();
    const slice = await readOutput(folder, source.id, stream, range, isWriting);
    if (over || slice.text === "" || (isWriting && isTorn(slice) && !torn.isOver(from))) return;
    const { text, next } = slice;
    const missed = Math.max(0, slice.from - from);
    const event = { event: "output", id: source.id, stream, text, from: slice.from, next } as const;
    while (!listener.notify({ ...event, missed, subscription: subscription.id })) {
      await listener.writable();
      if (over || listener.closed) return;
    }
    from = next;
    if (!slice.atEnd) again = true;
  }
  async function pump(): Promise<void> {
    busy = true;
    try {
      do {
        again = false;
        await pass();
      } while (again && !over);
    } catch (error) {
      source.failed(error as Error);
    }
    busy = false;
  }
  const wake = () => {
    again = true;
    if (!busy && !over) pumped = pump();
  };
  const close = watchOutput(folder, source.id, stream, wake);
  if (close === null) return null;
  wake();
  return {
    finish: () => {
      close();
      wake();
      return pumped;
    },
    stop: () => {
      over = true;
      torn.end();
      close();
    },
  };
}

/** The beginning of a line that may be going on: all there is, and no newline behind it. */
function isTorn({ text, atEnd }: Slice): boolean {
  return atEnd && !text.endsWith("\n");
}

/** Waits once for each offset: `isOver` begins the wait, and `again` is called at its end. */
function createPause(again: () => void) {
  let timer: NodeJS.Timeout | undefined;
  let waited = -1;
  let waiting = -1;
  const end = () => clearTimeout(timer);
  const isOver = (offset: number): boolean => {
    if (waited === offset) return true;
    if (waiting === offset) return false;
    end();
    waiting = offset;
    timer = setTimeout(() => {
      waited = offset;
      again();
    }, LINE_MS).unref();
    return false;
  };
  return { isOver, end };
}
