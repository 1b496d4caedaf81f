// Turns of the event loop: long work goes on in short slices, so that no call waits for somebody else's;
// what is left for a turn's end; and one run for all who ask in the same moment.

const SLICE_MS = 0.2;

/** Node takes a longer one for 1 ms. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Whose work goes on in a later turn of the event loop: of those who wait in a lane, one in each turn. */
const lanes: Record<Lane, (() => void)[]> = {
  short: [],
  modest: [],
  calls: [],
  scans: [],
  searches: [],
};

export type Lane =
  /** Calls that are short: they wait for one long call, not for all of them. */
  | "short"
  /** Long ones of who is within a share of the thread. */
  | "modest"
  /** All others. */
  | "calls"
  /** A look at every process that an end depends on, */
  | "scans"
  /** and what is made of it: both go on as fast however many calls wait. */
  | "searches";

const queues = Object.values(lanes);
let isDue = false;

/**
 * Wait for a turn of the event loop that no other long work of this lane has. However many there are,
 * whoever asks one short thing waits behind one of each lane.
 */
export function turn(lane: Lane = "calls"): Promise<void> {
  return new Promise((goOn) => {
    lanes[lane].push(goOn);
    if (!isDue) setImmediate(release);
    isDue = true;
  });
}

function release(): void {
  for (const queue of queues) queue.shift()?.();
  isDue = queues.some(({ length }) => length > 0);
  if (isDue) setImmediate(release);
}

/** Await the function returned once a step: it lets everybody else have a turn every SLICE_MS. */
export function createSlices(lane?: Lane): () => Promise<void> | undefined {
  let endMs = performance.now() + SLICE_MS;
  return () => {
    if (performance.now() < endMs) return undefined;
    return turn(lane).then(() => {
      endMs = performance.now() + SLICE_MS;
    });
  };
}

/** What waits for the end of this turn of the event loop. */
let lasts: (() => void)[] = [];

/** Do something when this turn is over, once its calls are answered: cheaper than an immediate for each. */
export function atTurnsEnd(work: () => void): void {
  if (lasts.length === 0) setImmediate(endTurn);
  lasts.push(work);
}

function endTurn(): void {
  const due = lasts;
  lasts = [];
  for (const work of due) work();
}

/** Jobs given to the function returned are done one after the other; one that fails holds up none. */
export function oneAtATime(): <T>(job: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (job) => {
    const mine = last.then(job);
    last = mine.catch(() => undefined); // whoever gave the job gets its error
    return mine;
  };
}

/** Callers of one moment share one run; whoever comes after it began gets a later one. */
export function shared<T>(run: () => Promise<T>): () => Promise<T> {
  let begun: Promise<unknown> = Promise.resolve();
  let next: Promise<T> | null = null;
  return () => {
    next ??= begun.then(() => {
      next = null;
      const current = run();
      begun = current.catch(() => undefined);
      return current;
    });
    return next;
  };
}
