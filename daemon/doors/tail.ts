// The output of a process on its way to a subscription, as it is written. It knows output only by offset.

import { limits, Refusal, type Stream } from "../../client/wire.js";
import { type OutputFolder, outputSize, streams, watchOutput } from "../output/output.js";
import { readOutput, type Slice } from "../output/reading.js";
import { tellOnce } from "../runtime/log.js";
import { type Feed, type Follower, isHeld, type Subscription } from "./feed.js";

/** Whose output is followed; `failed` hears of a read that did not work, tried again at the next change. */
export type Source = {
  readonly id: string;
  isWriting(): boolean;
  failed(error: Error): void;
};

/** Send the output of a process to a subscription, from here on until the process has ended. */
export function followOutput(
  feed: Feed,
  subscription: Subscription,
  folder: OutputFolder,
  source: Source,
): Promise<void> {
  subscription.following = openFollowers(feed, subscription, folder, source);
  return subscription.following;
}

async function openFollowers(
  feed: Feed,
  subscription: Subscription,
  folder: OutputFolder,
  source: Source,
): Promise<void> {
  for (const stream of streams) {
    const from = await outputSize(folder, source.id, stream);
    if (!isHeld(feed, subscription)) return;
    const follower = followStream(subscription, folder, source, stream, from);
    if (follower !== null) subscription.followers.push(follower);
  }
  // Its end may have been told before there was anybody to finish.
  if (!source.isWriting()) for (const follower of subscription.followers) void follower.finish();
}

/** How long the beginning of a line waits for the rest of it: a prompt is to be seen, too. */
const LINE_MS = 100;

/**
 * The file itself is the buffer: a reader that falls behind is simply served later, and told how much
 * of it the cap has freed before it could be sent.
 */
function followStream(
  { id, listener }: Subscription,
  folder: OutputFolder,
  source: Source,
  stream: Stream,
  start: number,
): Follower | null {
  const torn = createPause(() => wake());
  const watch = createWatch(folder, source.id, stream, () => wake());
  let from = start;
  let over = false;

  async function pass(): Promise<void> {
    watch.again(); // before it looks: what is written after that is told
    const range = { from, maxBytes: limits.logBytes, cut: "line" } as const;
    const isWriting = source.isWriting();
    const slice = await readOutput(folder, source.id, stream, range, isWriting);
    const mayGoOn = isWriting && isTorn(slice) && !torn.isOver(from);
    if (slice.from < from) await beginAnew();
    else if (slice.text !== "" && !mayGoOn) await send(slice);
  }
  /** Emptied by whoever opened it anew, or for a moment while its cap was held: that is over now. */
  async function beginAnew(): Promise<void> {
    if ((await outputSize(folder, source.id, stream)) < from) from = 0;
    wake();
  }
  async function send({ text, next, ...slice }: Slice): Promise<void> {
    if (over) return;
    const missed = Math.max(0, slice.from - from);
    const event = { event: "output", id: source.id, stream, text, from: slice.from, next } as const;
    while (!listener.notify({ ...event, missed, subscription: id })) {
      await listener.writable();
      if (over || listener.closed) return;
    }
    from = next;
    if (!slice.atEnd) wake();
  }
  const complain = tellOnce(source.failed);
  const tryPass = async (): Promise<void> => {
    try {
      await pass();
      complain(null);
    } catch (error) {
      complain(error as Error);
      watch.later(); // its command may hold a lease on the file, of whose end nobody is told
    }
  };
  const { wake, rest } = createPump(tryPass, () => over);
  if (!watch.begin()) return null;
  wake();
  return {
    finish: () => {
      watch.end();
      wake();
      return rest();
    },
    stop: () => {
      over = true;
      torn.end();
      watch.end();
    },
  };
}

/** One pass after the other, and one more for whoever woke it meanwhile; `rest` resolves when it is done. */
function createPump(pass: () => Promise<void>, isOver: () => boolean) {
  let isBusy = false;
  let isDue = false;
  let pumped = Promise.resolve();
  const pump = async (): Promise<void> => {
    isBusy = true;
    do {
      isDue = false;
      await pass();
    } while (isDue && !isOver());
    isBusy = false;
  };
  const wake = (): void => {
    isDue = true;
    if (!isBusy && !isOver()) pumped = pump();
  };
  return { wake, rest: () => pumped };
}

/** How soon a follower looks by itself, where others have taken its watch, which goes with each change, or a read failed. */
const BLIND_MS = 250;

/**
 * Calls `changed` once after `begin`, once after each `again`, and soon after `later`. `begin` is false where there is no such
 * stream, and throws `limit_exceeded` when there is no watch for it.
 */
function createWatch(folder: OutputFolder, id: string, stream: Stream, changed: () => void) {
  let unwatch: (() => void) | null = null;
  let timer: NodeJS.Timeout | undefined;
  let isOver = false;
  const told = () => {
    unwatch = null;
    changed();
  };
  const begin = (): boolean => {
    unwatch ??= watchOutput(folder, id, stream, told);
    return unwatch !== null;
  };
  const later = (): void => {
    clearTimeout(timer);
    if (!isOver) timer = setTimeout(changed, BLIND_MS).unref();
  };
  const again = (): void => {
    if (isOver) return;
    clearTimeout(timer);
    try {
      begin();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      later();
    }
  };
  const end = (): void => {
    isOver = true;
    clearTimeout(timer);
    unwatch?.();
  };
  return { begin, again, later, end };
}

/** The beginning of a line that may be going on: all there is, and no newline behind it. */
function isTorn({ text, atEnd }: Slice): boolean {
  return atEnd && text !== "" && !text.endsWith("\n");
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
