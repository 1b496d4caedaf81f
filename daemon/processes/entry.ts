// One process as the daemon has it, and how it looks from outside. Its state is written by the table alone.

import { type Process, Refusal, type Result, type Status } from "../../client/wire.js";
import type { Look } from "../kernel/procfs.js";
import type { Spec } from "../life/records.js";
import type { State } from "../life/state.js";
import type { Containment, Leader } from "../tree/containment.js";
import type { Ladder } from "../tree/ladder.js";

/** One process: what it is, where its life stands, and what works on it now. */
export type Entry = {
  readonly id: string;
  readonly spec: Spec;
  state: State;
  /** Leader, tree and ladder are there only while something can live. */
  leader: Leader | null;
  tree: Containment | null;
  ladder: Ladder | null;
  readonly waiters: Set<() => void>;
  /** Its leader's files in /proc, open since somebody first asked for its members. */
  look: Look | null;
  /** What `status` told last of few members, and in which state that was. */
  told: { readonly state: State; readonly result: Result<"status"> } | null;
  /** What `status` tells, or told in this turn of the loop. */
  report: Report | null;
};

/** Whoever asks now is told by `next`. */
export type Report = {
  readonly told: Promise<Result<"status">>;
  next: Promise<Result<"status">> | null;
};

/** A process that runs, or of which something may still live. */
export type Living = Entry & { tree: Containment };

/** Nothing works on it yet. */
export function createEntry(id: string, spec: Spec, state: State): Entry {
  const idle = { leader: null, tree: null, ladder: null, look: null, told: null, report: null };
  return { id, spec, state, ...idle, waiters: new Set() };
}

/** `already_terminated`, with how it ended. */
export function alreadyTerminated(entry: Entry): Refusal {
  const process = describe(entry);
  const which = process.pid === null ? `ID ${entry.id}` : `PID ${process.pid}`;
  return new Refusal("already_terminated", `Process already terminated: ${which}`, { process });
}

/** True while something of it may live. */
export function hasTree(entry: Entry): entry is Living {
  return entry.tree !== null;
}

/** The state as the outside sees it. */
export function statusOf({ state, spec }: Entry): Status {
  if (state.at !== "draining") return state.at;
  return spec.strays === "keep" ? "running" : "stopping";
}

/** The process in its wire shape. */
export function describe(entry: Entry): Process {
  const { state, spec } = entry;
  const exit = "exit" in state ? state.exit : null;
  return {
    id: entry.id,
    name: spec.name,
    pid: "pid" in state ? state.pid : null,
    status: statusOf(entry),
    command: [...spec.command],
    cwd: spec.cwd,
    owner: spec.owner,
    user: spec.user,
    startedAt: "startedMs" in state ? timestamp(state.startedMs) : null,
    endedAt: "endedMs" in state ? timestamp(state.endedMs) : null,
    exit: exit?.by ?? null,
    exitCode: exit?.by === "code" ? exit.code : null,
    signal: exit?.by === "signal" ? exit.signal : null,
    failure: state.at === "failed" ? { stage: state.stage, errno: state.errno } : null,
    containment: spec.containment,
    stopSignal: spec.stopSignal,
    graceMs: spec.graceMs,
  };
}

function timestamp(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}
