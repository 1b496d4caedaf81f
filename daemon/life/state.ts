// The life of a process as one table, state x event: pure, total by type, the only place that says
// what may follow what. It starts nothing, signals nothing and keeps no clock.
//
//   state       means                                    left by                    seen outside as
//   starting    accepted, not running yet                spawned, spawnFailed,      starting
//                                                        missing
//   running     the leader lives                         stopAsked, leaderExited,   running
//                                                        spawnFailed, missing
//   draining    the leader ended unasked, members        emptied, stopAsked,        running (strays
//               live: ended as strays, or kept           missing                    kept) or stopping
//   stopping    somebody asked for its end: how long     emptied, missing           stopping
//               it has, and whether it was told
//   exited      tree gone, nobody had asked              -                          exited
//   terminated  tree gone, as asked                      -                          terminated
//   failed      never ran                                -                          failed
//   lost        was running, or about to; not found      -                          lost
//
// The journal's lines are these events, and a later daemon folds them by the same `step`.

import type { Signal } from "../../client/wire.js";

/** How a leader ended. `unknown`: nobody could see it; never a guess. */
export type Exit =
  | { by: "code"; code: number }
  | { by: "signal"; signal: Signal }
  | { by: "unknown" };

/** What was being done when a spawn failed; `command`, `interpreter`, `cwd`: that file is the cause. */
export type Stage =
  | "journal"
  | "output"
  | "contain"
  | "fork"
  | "cwd"
  | "command"
  | "interpreter"
  | "exec";

/** Which process a number means, also for a later daemon: `identity.ts` makes and compares them. */
export type Identity = {
  /** Where the number holds: the boot and the pid namespace. */
  boot: string;
  /** Of its pidfd: no other process of the boot has it. Linux 6.9; null before. */
  inode: string | null;
  /** Clock ticks between boot and start; null where there is the inode. */
  startTicks: number | null;
};

type Ran = { pid: number; startedMs: number };
type Alive = Ran & { identity: Identity };

/** A wish for the end: when it was uttered, how long a grace it gave, whether the stop signal was sent. */
type Stop = { askedMs: number; graceMs: number; warned: boolean };

export type State =
  | { at: "starting" }
  | ({ at: "running" } & Alive)
  | ({ at: "draining"; exit: Exit } & Alive)
  | ({ at: "stopping"; exit: Exit | null; stop: Stop } & Alive)
  | ({ at: "exited"; exit: Exit; endedMs: number } & Ran)
  | ({ at: "terminated"; exit: Exit; endedMs: number } & Ran)
  | { at: "failed"; pid: number | null; stage: Stage; errno: string; endedMs: number }
  | { at: "lost"; pid: number | null; startedMs: number | null; endedMs: number };

export type Event =
  | { on: "spawned"; nowMs: number; pid: number; identity: Identity }
  | { on: "spawnFailed"; nowMs: number; stage: Stage; errno: string }
  | { on: "stopAsked"; nowMs: number; graceMs: number }
  | { on: "warned"; nowMs: number }
  | { on: "leaderExited"; nowMs: number; exit: Exit }
  | { on: "emptied"; nowMs: number }
  | { on: "missing"; nowMs: number };

type In<A extends State["at"]> = Extract<State, { at: A }>;
type On<E extends Event["on"]> = Extract<Event, { on: E }>;
type Move<A extends State["at"], E extends Event["on"]> = (state: In<A>, event: On<E>) => State;
type Table = { [A in State["at"]]: { [E in Event["on"]]: Move<A, E> | null } };

const never = {
  spawned: null,
  spawnFailed: null,
  stopAsked: null,
  warned: null,
  leaderExited: null,
  emptied: null,
  missing: null,
} as const;

function lose({ pid, startedMs }: Ran, nowMs: number): State {
  return { at: "lost", pid, startedMs, endedMs: nowMs };
}

function end({ pid, startedMs }: Ran, exit: Exit, endedMs: number) {
  return { pid, startedMs, exit, endedMs };
}

function ask({ nowMs, graceMs }: On<"stopAsked">): Stop {
  return { askedMs: nowMs, graceMs, warned: false };
}

/** A further wish can only bring the end forward, unless the time of the former is over. */
function askAgain(stop: Stop, event: On<"stopAsked">): Stop {
  const endMs = stop.askedMs + stop.graceMs;
  if (endMs <= event.nowMs) return ask(event);
  return event.nowMs + event.graceMs < endMs ? { ...ask(event), warned: stop.warned } : stop;
}

function fail(pid: number | null, { stage, errno, nowMs }: On<"spawnFailed">): State {
  return { at: "failed", pid, stage, errno, endedMs: nowMs };
}

const unknown: Exit = { by: "unknown" };

const table: Table = {
  starting: {
    ...never,
    spawned: (_, { pid, nowMs, identity }) => ({ at: "running", pid, startedMs: nowMs, identity }),
    spawnFailed: (_, event) => fail(null, event),
    // The daemon died in between: nobody knows whether it ever ran.
    missing: (_, { nowMs }) => ({ at: "lost", pid: null, startedMs: null, endedMs: nowMs }),
  },
  running: {
    ...never,
    // Known only afterwards: what was started did not become the command.
    spawnFailed: ({ pid }, event) => fail(pid, event),
    stopAsked: (state, event) => ({ ...state, at: "stopping", exit: null, stop: ask(event) }),
    leaderExited: (state, { exit }) => ({ ...state, at: "draining", exit }),
    missing: (state, { nowMs }) => lose(state, nowMs),
  },
  draining: {
    ...never,
    stopAsked: (state, event) => ({ ...state, at: "stopping", stop: ask(event) }),
    emptied: (state, { nowMs }) => ({ at: "exited", ...end(state, state.exit, nowMs) }),
    missing: (state, { nowMs }) => lose(state, nowMs),
  },
  stopping: {
    ...never,
    stopAsked: (state, event) => {
      const stop = askAgain(state.stop, event);
      return stop === state.stop ? state : { ...state, stop };
    },
    warned: (state) => ({ ...state, stop: { ...state.stop, warned: true } }),
    leaderExited: (state, { exit }) => ({ ...state, exit }),
    emptied: (state, { nowMs }) => ({
      at: "terminated",
      ...end(state, state.exit ?? unknown, nowMs),
    }),
    missing: (state, { nowMs }) => lose(state, nowMs),
  },
  exited: never,
  terminated: never,
  failed: never,
  lost: never,
};

/**
 * The state that follows. Throws on a pair that the table holds to be impossible: that is a bug in
 * procsup, never the client's doing. The state given is left as it was.
 */
export function step(state: State, event: Event): State {
  // The table is checked pair by pair above; TypeScript cannot follow two lookups at once.
  const move = table[state.at][event.on] as Move<State["at"], Event["on"]> | null;
  if (move === null) throw new Error(`impossible: ${event.on} while ${state.at}`);
  return move(state as never, event as never);
}

/** Final states are left by no event. */
export type Final = In<"exited" | "terminated" | "failed" | "lost">;

/** True when nothing can happen to the process any more. */
export function isFinal(state: State): state is Final {
  return table[state.at] === never;
}
