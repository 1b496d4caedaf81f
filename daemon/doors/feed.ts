// Who is told what: subscriptions, the changes of status that are told to them, and the backpressure of those who
// do not read. It knows processes only by their wire shape.

import { type Event, limits, type Process, Refusal } from "../../client/wire.js";
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
  /** They are numbered in their order. */
  readonly number: number;
  dropped: number;
  readonly followers: Follower[];
  /** Resolves once all followers are there; null where the output is not followed. */
  following: Promise<void> | null;
  forget(): void;
};

/** `finish`: send what is left, then stop; resolves when that is done. */
export type Follower = { finish(): Promise<void>; stop(): void };

/** `latest`: the number of the subscription that was the last when it came about. */
type Due = Omit<Change, "describe"> & { readonly process: Process; readonly latest: number };

export type Feed = {
  readonly byListener: Map<Listener, Map<string, Subscription>>;
  /** The same by the process that they are for; null: for all of them. */
  readonly byProcess: Map<string | null, Set<Subscription>>;
  /** Changes that are being told, in their order. */
  readonly due: Due[];
  /** What goes on until it is told, or its reader is gone. */
  readonly telling: Set<Promise<void>>;
  lastId: number;
};

export function createFeed(): Feed {
  return { byListener: new Map(), byProcess: new Map(), due: [], telling: new Set(), lastId: 0 };
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
  const state = { number: feed.lastId, dropped: 0, followers: [], following: null };
  const fresh: Subscription = { id, listener, processId, sees, ...state, forget };
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

export function isHeld(feed: Feed, { id, listener }: Subscription): boolean {
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

/** So many changes may wait to be told; of a further one everybody is told that it was missed. */
const MOST_DUE = 1_024;

/**
 * Send a change of status to all who asked for it, in the order of the changes; an end to whom follows the
 * output only behind all of it. Where very many have asked, others get their turns in between.
 */
export function publish(feed: Feed, { id, owner, ended, describe }: Change): void {
  if (!feed.byProcess.has(id) && !feed.byProcess.has(null)) return;
  const due: Due = { id, owner, ended, process: describe(), latest: feed.lastId };
  if (feed.due.length >= MOST_DUE) {
    for (const subscription of audienceOf(feed, due)) miss(feed, subscription);
    return;
  }
  feed.due.push(due);
  if (feed.due.length === 1) keepTelling(feed, tellAll(feed));
}

function keepTelling(feed: Feed, work: Promise<void>): void {
  feed.telling.add(work);
  void work.finally(() => feed.telling.delete(work));
}

/** Resolves once all that has happened is told, ends to whoever is slow included, or after `limitMs`. */
export async function untilTold(feed: Feed, limitMs: number): Promise<void> {
  const told = async () => {
    while (feed.telling.size > 0) await Promise.all(feed.telling);
  };
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limitMs);
  });
  await Promise.race([told(), limit]);
  clearTimeout(timer);
}

/** Who had asked for it by then, and may see it. */
function* audienceOf(feed: Feed, { id, owner, latest }: Due): Iterable<Subscription> {
  for (const key of [id, null]) {
    for (const subscription of feed.byProcess.get(key) ?? []) {
      if (subscription.number <= latest && subscription.sees(owner)) yield subscription;
    }
  }
}

async function tellAll(feed: Feed): Promise<void> {
  const slice = createSlices();
  for (let [due] = feed.due; due !== undefined; [due] = feed.due) {
    for (const subscription of audienceOf(feed, due)) {
      const turn = slice();
      if (turn !== undefined) await turn;
      tellStatus(feed, subscription, due);
    }
    feed.due.shift();
  }
}

/**
 * Tell a subscription in particular. The end of the process that it is for waits for its reader, behind the last of the
 * output that is followed: nothing comes after it, so nobody should wait for it in vain.
 */
export function tellStatus(
  feed: Feed,
  subscription: Subscription,
  { process, ended }: Pick<Due, "process" | "ended">,
): void {
  const event: Event = { event: "status", subscription: subscription.id, process };
  if (ended && subscription.processId !== null)
    keepTelling(feed, tellEnd(feed, subscription, event));
  else tell(feed, subscription, event);
}

async function tellEnd(feed: Feed, subscription: Subscription, event: Event): Promise<void> {
  const { following, followers, listener } = subscription;
  if (following !== null) {
    await following.catch(() => undefined); // whoever subscribed was told
    await Promise.all(followers.map((follower) => follower.finish()));
  }
  // What was missed is told first: nothing comes after the end.
  const isTold = () => subscription.dropped === 0 && listener.notify(event);
  while (isHeld(feed, subscription) && !isTold()) await listener.writable();
}

function tell(feed: Feed, subscription: Subscription, event: Event): void {
  if (!isHeld(feed, subscription)) return;
  if (subscription.dropped > 0 || !subscription.listener.notify(event)) miss(feed, subscription);
}

/** Count what a slow reader misses, and tell it how much once it reads again. */
function miss(feed: Feed, subscription: Subscription): void {
  subscription.dropped += 1;
  if (subscription.dropped === 1) void tellMissed(feed, subscription);
}

async function tellMissed(feed: Feed, subscription: Subscription): Promise<void> {
  const { id, listener } = subscription;
  const isTold = () =>
    listener.notify({ event: "dropped", subscription: id, count: subscription.dropped });
  // The output of others may take the room first.
  do await listener.writable();
  while (isHeld(feed, subscription) && !isTold());
  subscription.dropped = 0;
}
