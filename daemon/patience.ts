// How long faults are put up with: answers that say that no call could be made of what came. Of one program
// so many are given in a second; past them all that it sends has to wait, on old connections and on new ones,
// so that a flood takes neither a core of the machine nor anybody's turn.

import { kinds, limits } from "../client/wire.js";

/** JSON-RPC's own errors but the internal one, which is no client's fault. Section 5.1. */
const faultCodes: ReadonlySet<number> = new Set([
  kinds.parse_error.code,
  kinds.invalid_request.code,
  kinds.method_not_found.code,
  kinds.invalid_params.code,
]);

/** Whether an error's code tells of a fault. */
export function isFault(code: number): boolean {
  return faultCodes.has(code);
}

/** With one program. */
export type Patience = {
  /** So many faults of it have been answered. */
  blame(faults: number): void;
  /** What it has sent has to wait. */
  isOver(): boolean;
  /** Resolves when it need not any more. */
  again(): Promise<void>;
};

/** What a flood over many connections is kept waiting for at most. */
const LONGEST_MS = 1_000;

/**
 * Patience with each program for so many faults a second, and for `faultsAtOnce` if it had none before.
 * Programs are told apart by number, whatever these mean.
 */
export function createPatience(
  faultsPerSecond: number = limits.faultsPerSecond,
): (program: number) => Patience {
  const faultMs = 1_000 / faultsPerSecond;
  const creditMs = limits.faultsAtOnce * faultMs;
  /** When each will have made up for its faults. Who did so comes first, and is forgotten. */
  const evenMs = new Map<number, number>();

  function owedMs(program: number): number {
    const atMs = evenMs.get(program);
    return atMs === undefined ? 0 : atMs - performance.now() - creditMs;
  }

  return (program) => ({
    blame(faults) {
      if (faults === 0) return;
      const nowMs = performance.now();
      for (const [other, atMs] of evenMs) {
        if (atMs > nowMs) break;
        evenMs.delete(other);
      }
      const atMs = Math.max(nowMs, evenMs.get(program) ?? 0) + faults * faultMs;
      evenMs.delete(program);
      evenMs.set(program, Math.min(atMs, nowMs + creditMs + LONGEST_MS));
    },
    isOver: () => owedMs(program) > 0,
    async again() {
      // Of many that wait for the same moment the first may use it up.
      for (let ms = owedMs(program); ms > 0; ms = owedMs(program)) {
        await new Promise<void>((resolve) => setTimeout(resolve, ms));
      }
    },
  });
}
