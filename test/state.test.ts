// The life of a process as a table: every state, every event.

import { equal, ok, throws } from "uvu/assert";
import { type Event, isFinal, type State, step } from "../daemon/life/state.js";
import { scenario } from "./scenario.js";

const identity = { boot: "b", inode: "1", startTicks: null };
const ran = { pid: 7, startedMs: 1 };
const alive = { ...ran, identity };
const stop = { askedMs: 1, graceMs: 5, warned: false };
const exit = { by: "code", code: 0 } as const;

const states: State[] = [
  { at: "starting" },
  { at: "running", ...alive },
  { at: "draining", ...alive, exit },
  { at: "stopping", ...alive, exit: null, stop },
  { at: "exited", ...ran, exit, endedMs: 2 },
  { at: "terminated", ...ran, exit, endedMs: 2 },
  { at: "failed", pid: null, stage: "exec", errno: "ENOENT", endedMs: 2 },
  { at: "lost", ...ran, endedMs: 2 },
];

const events: Event[] = [
  { on: "spawned", nowMs: 9, pid: 7, identity },
  { on: "spawnFailed", nowMs: 9, stage: "exec", errno: "ENOENT" },
  { on: "stopAsked", nowMs: 9, graceMs: 5 },
  { on: "warned", nowMs: 9 },
  { on: "leaderExited", nowMs: 9, exit },
  { on: "emptied", nowMs: 9 },
  { on: "missing", nowMs: 9 },
];

/** Every pair that may happen and what follows; every other pair is impossible. */
const follows: Record<string, State["at"]> = {
  "starting spawned": "running",
  "starting spawnFailed": "failed",
  "starting missing": "lost",
  "running stopAsked": "stopping",
  "running spawnFailed": "failed",
  "running leaderExited": "draining",
  "running missing": "lost",
  "draining stopAsked": "stopping",
  "draining emptied": "exited",
  "draining missing": "lost",
  "stopping stopAsked": "stopping",
  "stopping warned": "stopping",
  "stopping leaderExited": "stopping",
  "stopping emptied": "terminated",
  "stopping missing": "lost",
};

for (const state of states) {
  for (const event of events) {
    const next = follows[`${state.at} ${event.on}`];
    scenario(
      `${event.on} while ${state.at} ${next === undefined ? "throws" : `is ${next}`}`,
      () => {
        if (next === undefined) throws(() => step(state, event), /impossible/);
        else equal(step(state, event).at, next);
      },
    );
  }
}

scenario("exactly the states that nothing leaves are final", () => {
  for (const state of states) {
    const isLeft = events.some((event) => `${state.at} ${event.on}` in follows);
    equal(isFinal(state), !isLeft, state.at);
  }
});

scenario(
  "a leader that ends before it was asked keeps its exit when the rest is terminated",
  () => {
    const asked = [events[4], events[2], events[5]].reduce<State>(
      (state, event) => (event === undefined ? state : step(state, event)),
      { at: "running", ...alive },
    );
    ok(asked.at === "terminated");
    equal(asked.exit, exit);
    equal(asked.endedMs, 9);
  },
);

scenario("an end that nobody could see is unknown, never a guess", () => {
  const ended = step({ at: "stopping", ...alive, exit: null, stop }, { on: "emptied", nowMs: 9 });
  ok(ended.at === "terminated");
  equal(ended.exit, { by: "unknown" });
});
