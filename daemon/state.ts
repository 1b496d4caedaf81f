// The life of a process as one table, state x event: pure, total by type, the only place that says
// what may follow what. It starts nothing, signals nothing and keeps no clock.
//
//   state       means                                    left by                    seen outside as
//   starting    accepted, not running yet                spawned, spawnFailed       starting
//   running     the leader lives                         stopAsked, leaderExited,   running
//                                                        spawnFailed
//   draining    the leader ended unasked, members        emptied, stopAsked,        running (strays
//               live: ended as strays, or kept           missing                    kept) or stopping
//   stopping    somebody asked for its end               emptied, missing           stopping
//   exited      tree gone, nobody had asked              -                          exited
//   terminated  tree gone, as asked                      -                          terminated
//   failed      never ran                                -                          failed
//   lost        running once, not found again            -                          lost

import type { Signal } from "../client/wire.js";

/** How a leader ended. `unknown`: nobody could see it; never a guess. */
export type Exit =
  | { by: "code"; code: number }
  | { by: "signal"; signal: Signal }
  | { by: "unknown" };

/** What was being done when a spawn failed; `command`, `interpreter`, `cwd`: that file is the cause. */
export type Stage = "output" | "contain" | "fork" | "cwd" | "command" | "interpreter" | "exec";

type Ran = { pid: number; startedMs: number };

export type State =
  | { at: "starting" }
  | ({ at: "running" } & Ran)
  | ({ at: "draining"; exit: Exit } & Ran)
  | ({ at: "stopping"; exit: Exit | null } & Ran)
  | ({ at: "exited"; exit: Exit; endedMs: number } & Ran)
  | ({ at: "terminated"; exit: Exit; endedMs: number } & Ran)
  | { at: "failed"; pid: number | null; stage: Stage; errno: string; endedMs: number }
  | ({ at: "lost"; endedMs: number } & Ran);

export type Event =
  | { on: "spawned"; nowMs: number; pid: number }
  | { on: "spawnFailed"; nowMs: number; stage: Stage; errno: string }
  | { on: "stopAsked"; nowMs: number }
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
  leaderExited: null,
  emptied: null,
  missing: null,
} as const;

function lose({ pid, startedMs }: Ran, nowMs: number): State {
  return { at: "lost", pid, startedMs, endedMs: nowMs };
}

function fail(pid: number | null, { stage, errno, nowMs }: On<"spawnFailed">): State {
  return { at: "failed", pid, stage, errno, endedMs: nowMs };
}

const unknown: Exit = { by: "unknown" };

const table: Table = {
  starting: {
    ...never,
    spawned: (_, { pid, nowMs }) => ({ at: "running", pid, startedMs: nowMs }),
    spawnFailed: (_, event) => fail(null, event),
  },
  running: {
    ...never,
    // Known only afterwards: what was started did not become the command.
    spawnFailed: ({ pid }, event) => fail(pid, event),
    stopAsked: (state) => ({ ...state, at: "stopping", exit: null }),
    leaderExited: (state, { exit }) => ({ ...state, at: "draining", exit }),
    missing: (state, { nowMs }) => lose(state, nowMs),
  },
  draining: {
    ...never,
    stopAsked: (state) => ({ ...state, at: "stopping" }),
    emptied: (state, { nowMs }) => ({ ...state, at: "exited", endedMs: nowMs }),
    missing: (state, { nowMs }) => lose(state, nowMs),
  },
  stopping: {
    ...never,
    // Asked again after survivors: the wish stands already.
    stopAsked: (state) => state,
    leaderExited: (state, { exit }) => ({ ...state, exit }),
    emptied: (state, { nowMs }) => ({
      ...state,
      at: "terminated",
      exit: state.exit ?? unknown,
      endedMs: nowMs,
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
