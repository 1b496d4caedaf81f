// How long faults are put up with: answers that say that no call could be made of what came. Of one program
// so many are given in a second; past them all that it sends waits in one queue, whatever connection it comes
// on, so that a flood does not keep a core of the machine busy.

import { kinds, limits } from "../../client/wire.js";
import { type Lane, oneAtATime, turn } from "../runtime/slices.js";

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
  /** So many faults of it, one at least, have been answered. */
  blame(faults: number): void;
  /** What it has sent has to wait. */
  isOver(): boolean;
  /** How many wait now. */
  readonly waiting: number;
  /** A turn of that lane; whoever has to wait gets its time instead, in the order in which they asked. */
  turn(lane?: Lane): Promise<void>;
};

/** What a program can owe at most, beyond what it is credited with. */
const MOST_MS = 1_000;

type Debt = {
  /** When it will have made up for its faults. */
  evenMs: number;
  /** Faults that it has made up for before they were answered. */
  prepaid: number;
  waiting: number;
  readonly inTurn: (job: () => Promise<void>) => Promise<void>;
};

/**
 * Patience with each program for so many faults a second, and for `faultsAtOnce` if it had none before.
 * Programs are told apart by number, whatever these mean.
 */
export function createPatience(
  faultsPerSecond: number = limits.faultsPerSecond,
): (program: number) => Patience {
  const faultMs = 1_000 / faultsPerSecond;
  const creditMs = limits.faultsAtOnce * faultMs;
  /** Who was blamed long ago comes first, and is forgotten. */
  const debts = new Map<number, Debt>();

  const owedMs = ({ evenMs }: Debt) => evenMs - performance.now() - creditMs;
  const hasToWait = (debt: Debt) => debt.waiting > 0 || owedMs(debt) > 0;

  function charge(debt: Debt, faults: number): void {
    const nowMs = performance.now();
    const evenMs = Math.max(nowMs, debt.evenMs) + faults * faultMs;
    debt.evenMs = Math.min(evenMs, nowMs + creditMs + MOST_MS);
  }

  function forgetOthers(): void {
    const nowMs = performance.now();
    for (const [program, { evenMs, waiting }] of debts) {
      if (evenMs > nowMs || waiting > 0) break;
      debts.delete(program);
    }
  }

  async function wait(debt: Debt): Promise<void> {
    for (let ms = owedMs(debt); ms > 0; ms = owedMs(debt)) {
      await new Promise<void>((resolve) => setTimeout(resolve, ms));
    }
    // As if a fault came of it: what does is known too late for the next in the queue.
    charge(debt, 1);
    debt.prepaid += 1;
    debt.waiting -= 1;
  }

  return (program) => ({
    blame(faults) {
      forgetOthers();
      const debt = debts.get(program) ?? {
        evenMs: 0,
        prepaid: 0,
        waiting: 0,
        inTurn: oneAtATime(),
      };
      const prepaid = Math.min(faults, debt.prepaid);
      debt.prepaid -= prepaid;
      charge(debt, faults - prepaid);
      debts.delete(program);
      debts.set(program, debt);
    },
    isOver() {
      const debt = debts.get(program);
      return debt !== undefined && hasToWait(debt);
    },
    get waiting() {
      return debts.get(program)?.waiting ?? 0;
    },
    turn(lane) {
      const debt = debts.get(program);
      if (debt === undefined || !hasToWait(debt)) return turn(lane);
      debt.waiting += 1;
      return debt.inTurn(() => wait(debt));
    },
  });
}
