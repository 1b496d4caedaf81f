// Long work in short slices, so that no call waits for somebody else's.

const SLICE_MS = 2;

/** Await the function returned once a step: it lets everybody else have a turn every 2 ms. */
export function createSlices(): () => Promise<void> | undefined {
  let endMs = performance.now() + SLICE_MS;
  return () => {
    if (performance.now() < endMs) return undefined;
    return new Promise<void>(setImmediate).then(() => {
      endMs = performance.now() + SLICE_MS;
    });
  };
}
