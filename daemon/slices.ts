// Turns of the event loop: long work goes on in short slices, so that no call waits for somebody else's;
// what is left for a turn's end; and one run for all who ask in the same moment.

const SLICE_MS = 0.2;

/** Whose work goes on in a later turn of the event loop. */
const waiting: (() => void)[] = [];

/**
 * Wait for a turn of the event loop that no other long work has: of those who wait, one goes on in each.
 * However many there are, whoever asks one short thing waits behind one of them.
 */
export function turn(): Promise<void> {
  return new Promise((goOn) => {
    waiting.push(goOn);
    if (waiting.length === 1) setImmediate(release);
  });
}

function release(): void {
  waiting.shift()?.();
  if (waiting.length > 0) setImmediate(release);
}

/** Await the function returned once a step: it lets everybody else have a turn every SLICE_MS. */
export function createSlices(): () => Promise<void> | undefined {
  let endMs = performance.now() + SLICE_MS;
  return () => {
    if (performance.now() < endMs) return undefined;
    return turn().then(() => {
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

/** Callers of one moment share one run; whoever comes after it began gets a later one. */
export function shared<T>(run: () => Promise<T>): () => Promise<T> {
  let begun: Promise<unknown> = Promise.resolve();
  let next: Promise<T> | null = null;
  return () => {
    next ??= begun.then(() => {
      const current = run();
      begun = current.catch(() => undefined);
      next = null;
      return current;
    });
    return next;
  };
}
