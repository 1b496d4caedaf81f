// How long ended processes are remembered: up to a count, an age and a size, oldest forgotten first.
// It keeps ids and sizes only; what forgetting means is told to it.

import { LONGEST_TIMER_MS } from "../runtime/slices.js";

export type HistoryBounds = { historyCount: number; historyAgeMs: number; historyBytes: number };

type Record = { endedMs: number; bytes: number };

export type History = {
  bounds: HistoryBounds;
  readonly forget: (id: string) => void;
  /** In the order of their ends. */
  readonly records: Map<string, Record>;
  bytes: number;
  timer: NodeJS.Timeout | null;
};

/** `forget` is called with each id that falls out, once. */
export function createHistory(bounds: HistoryBounds, forget: (id: string) => void): History {
  return { bounds, forget, records: new Map(), bytes: 0, timer: null };
}

/** Enter a process that ended `agoMs` ago and takes `bytes` of memory. It may be forgotten at once. */
export function remember(
  history: History,
  id: string,
  { bytes, agoMs }: { bytes: number; agoMs: number },
): void {
  history.records.set(id, { endedMs: performance.now() - agoMs, bytes });
  history.bytes += bytes;
  prune(history);
}

/** Change how much is remembered; what is too much now is forgotten at once. */
export function setBounds(history: History, bounds: HistoryBounds): void {
  history.bounds = bounds;
  clearTimeout(history.timer ?? undefined);
  history.timer = null;
  prune(history);
}

function prune(history: History): void {
  const { historyCount, historyAgeMs, historyBytes } = history.bounds;
  const bornMs = performance.now() - historyAgeMs;
  for (const [id, { endedMs, bytes }] of history.records) {
    const { size } = history.records;
    if (size <= historyCount && history.bytes <= historyBytes && endedMs > bornMs) break;
    history.records.delete(id);
    history.bytes -= bytes;
    history.forget(id);
  }
  armTimer(history);
}

/** One timer, for the oldest: nothing wakes before something is due. */
function armTimer(history: History): void {
  const [oldest] = history.records.values();
  if (oldest === undefined || history.timer !== null) return;
  const dueMs = oldest.endedMs + history.bounds.historyAgeMs - performance.now();
  history.timer = setTimeout(
    () => {
      history.timer = null;
      prune(history);
    },
    Math.min(Math.max(dueMs, 1), LONGEST_TIMER_MS),
  ).unref();
}
