// What holds a tree together: the interface, and what both kinds share. Containments find members,
// signal them and prove that none is left; when and why to signal is the ladder's business.

import type { ContainmentKind, Signal } from "../../client/wire.js";
import type { Image } from "../kernel/native.js";
import { type Sent, signalHeld, signalProcess } from "../kernel/pidfd.js";
import type { Exit } from "../life/state.js";
import { createSlices, oneAtATime } from "../runtime/slices.js";

/** The first process of a tree, held by a pidfd until `release`. */
export type Leader = {
  readonly pid: number;
  /** -1 once released, or when it had ended before it could be held: then nothing may be sent to it. */
  pidfd: number;
  /** Set before `exited` resolves; a turn later the number may be somebody else's. */
  exit: Exit | null;
  /** It ended as the wrapper that was to become the command: the command itself never ran. */
  neverRan: boolean;
  readonly exited: Promise<void>;
  release(): void;
};

/**
 * Who was there, how many of them a signal reached, and whom we were not permitted to signal. Whoever was
 * found, but neither reached nor refused, had ended by then.
 */
export type Reach = { found: readonly number[]; reached: number; refused: number[] };

export interface Containment {
  readonly kind: ContainmentKind;
  /** The numbers of the living members, as the kernel has them now. */
  members(): Promise<readonly number[]>;
  /**
   * Send signals, in this order, to every living member, each held and proven ours before. Nobody
   * left is no error. SIGCONT also ends a pause.
   */
  signal(...signals: Signal[]): Promise<Reach>;
  /** As `signal`, for an end: whoever waits for a turn with this tree has lost it. */
  warn(...signals: Signal[]): Promise<Reach>;
  /** SIGKILL to all, also to those that are born meanwhile. */
  kill(): Promise<Reach>;
  /** Keep every member from running, until SIGCONT or SIGKILL. */
  pause(): Promise<Reach>;
  /** True proves that no living member is left; false means that one lives, or may. */
  isEmpty(): Promise<boolean>;
  /** Resolves once no living member is left; the same promise at each call. */
  emptied(): Promise<void>;
  /** Nothing of the tree lives: give back what held it. Nobody is found or signalled any more. */
  release(): void;
}

/** Room for one tree, made before its leader is started. */
export type Place = {
  /** What to execute so that the command begins inside, with the same pid. */
  enter(image: Image): Image;
  /** The tree, once its leader runs. */
  hold(leader: Leader): Containment;
  /** Nothing was started: take the room down. */
  abandon(): void;
};

/** A way to hold trees together, chosen once at start. */
export type Containing = {
  readonly kind: ContainmentKind;
  /** Where in the file system a tree of this id would be held, for whoever has to find it again. */
  room(id: string): string | null;
  /**
   * Throws with the kernel's errno when there is no room for another. `uid` is that of all its members,
   * null where they may become others.
   */
  prepare(id: string, uid: number | null): Place;
  /** The ids of rooms that are not taken down yet. */
  rooms(): string[];
  /** The numbers of who lives in one of them; none when it is gone. */
  lodgers(id: string): number[];
  /** Take down the empty rooms of earlier runs, except those of `known` ids. */
  sweep(known: (id: string) => boolean): Promise<void>;
  /** The daemon goes: leave nothing behind but what lives. */
  close(): Promise<void>;
};

const nobody: Reach = { found: [], reached: 0, refused: [] };

/**
 * What is asked of a tree goes on in turns: so a pause comes after the resume that was asked for before it. An end
 * waits for what is under way, not for all that waits: that reaches nobody any more.
 */
export function inOrder(tree: Omit<Containment, "warn">): Containment {
  const inTurn = oneAtATime();
  let ends = 0;
  const unlessEnded = (job: () => Promise<Reach>) => {
    const askedAt = ends;
    return inTurn(async () => (ends === askedAt ? job() : nobody));
  };
  return {
    ...tree,
    signal: (...signals) => unlessEnded(() => tree.signal(...signals)),
    pause: () => unlessEnded(() => tree.pause()),
    warn(...signals) {
      ends += 1;
      return inTurn(() => tree.signal(...signals));
    },
  };
}

/**
 * Send `signals` to each of `members`: the leader through its own pidfd, everybody else through a new
 * one, after `isOurs` has been asked of the process that it holds.
 */
export async function signalEach(
  leader: Leader | null,
  members: readonly number[],
  isOurs: (pid: number) => boolean,
  signals: readonly Signal[],
): Promise<Reach> {
  const reach: Reach = { found: members, reached: 0, refused: [] };
  const slice = createSlices("searches");
  for (const pid of members) {
    await slice();
    const isLeader = pid === leader?.pid && leader.exit === null;
    const sent = isLeader
      ? sendAll(signals, (signal) => signalProcess(leader.pidfd, signal))
      : signalHeld(pid, isOurs, (pidfd) => sendAll(signals, (one) => signalProcess(pidfd, one)));
    if (sent === "sent") reach.reached += 1;
    if (sent === "refused") reach.refused.push(pid);
  }
  return reach;
}

/** What became of the first signal: the others are of no use to whom that did not reach. */
function sendAll(signals: readonly Signal[], send: (signal: Signal) => Sent): Sent {
  const [first, ...others] = signals;
  const sent = first === undefined ? "nobody" : send(first);
  if (sent === "sent") for (const signal of others) send(signal);
  return sent;
}
