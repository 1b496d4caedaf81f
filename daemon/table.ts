// The table of processes and the one writer of their states: who is known, under which pid and name,
// and how each looks from outside. What is done to them is the supervisor's.

import {
  type Address,
  type Checked,
  type ContainmentKind,
  type Member,
  type Process,
  Refusal,
  type Status,
} from "../client/wire.js";
import type { Containing, Containment, Leader } from "./containment.js";
import { createHistory, type History, type HistoryBounds, remember } from "./history.js";
import type { Ladder } from "./ladder.js";
import type { Log } from "./log.js";
import { type OutputFolder, removeOutput } from "./output.js";
import { type Event, isFinal, type State, step } from "./state.js";
import type { Tags } from "./tag.js";

/** On whose behalf a process runs. */
export type Owner = { uid: number; name: string | null };

/** What was asked for at spawn, as far as it is still needed. */
type Spec = Pick<Checked<"spawn">, "command" | "cwd" | "stopSignal" | "graceMs" | "strays"> & {
  name: string | null;
  user: string;
};

/** One process: what it is, where its life stands, and what works on it now. */
export type Entry = {
  readonly id: string;
  readonly spec: Spec;
  readonly owner: Owner;
  readonly containment: ContainmentKind;
  state: State;
  /** Leader, tree and ladder are there only while something can live. */
  leader: Leader | null;
  tree: Containment | null;
  ladder: Ladder | null;
  readonly waiters: Set<() => void>;
  /** The members as read in this turn of the loop, for all who ask in it. */
  members: Promise<Member[]> | null;
};

/** A process that runs, or of which something may still live. */
export type Living = Entry & { tree: Containment };

export type Table = {
  readonly log: Log;
  readonly output: OutputFolder;
  /** What holds the trees of new processes together. */
  readonly containing: Containing;
  readonly tags: Tags;
  /** The socket that children are told of, in PROCSUP_SOCKET. */
  readonly socket: string;
  /** Told of every change that the outside can see; `entry.state` is the new one. */
  readonly publish: (entry: Entry) => void;
  readonly entries: Map<string, Entry>;
  readonly byPid: Map<number, Entry>;
  readonly byName: Map<string, Entry>;
  readonly history: History;
  /** Processes with a tree. */
  living: number;
  /** The daemon is going down: nothing new is started. */
  closing: boolean;
};

/** An empty table. */
export function createTable(
  parts: Pick<Table, "log" | "output" | "containing" | "tags" | "socket" | "publish">,
  bounds: HistoryBounds,
): Table {
  const table: Table = {
    ...parts,
    entries: new Map(),
    byPid: new Map(),
    byName: new Map(),
    history: createHistory(bounds, (id) => forget(table, id)),
    living: 0,
    closing: false,
  };
  return table;
}

// --- looking up -----------------------------------------------------------------------------

/** The process that is meant: by pid the latest that bore it, by name its holder or its last one. */
export function find(table: Table, address: Address): Entry {
  const { pid, id, name } = address;
  const entry =
    pid !== undefined
      ? table.byPid.get(pid)
      : id !== undefined
        ? table.entries.get(id)
        : table.byName.get(name ?? "");
  if (entry !== undefined) return entry;
  const given = pid !== undefined ? `PID ${pid}` : id !== undefined ? `ID ${id}` : `name ${name}`;
  throw new Refusal("process_not_found", `Process not found: ${given}`, { pid, id, name });
}

/** As `find`, for whoever needs it alive: throws `already_terminated` with how it ended. */
export function findLiving(table: Table, address: Address): Living {
  const entry = find(table, address);
  if (isLiving(entry)) return entry;
  const process = describe(entry);
  const which = process.pid === null ? `ID ${entry.id}` : `PID ${process.pid}`;
  throw new Refusal("already_terminated", `Process already terminated: ${which}`, { process });
}

/** True while something of it may live. */
export function isLiving(entry: Entry): entry is Living {
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
    owner: entry.owner,
    user: spec.user,
    startedAt: "startedMs" in state ? new Date(state.startedMs).toISOString() : null,
    endedAt: "endedMs" in state ? new Date(state.endedMs).toISOString() : null,
    exitCode: exit?.by === "code" ? exit.code : null,
    signal: exit?.by === "signal" ? exit.signal : null,
    failure: state.at === "failed" ? { stage: state.stage, errno: state.errno } : null,
    containment: entry.containment,
    stopSignal: spec.stopSignal,
    graceMs: spec.graceMs,
  };
}

// --- the one writer -------------------------------------------------------------------------

/** Bring events to a process, in order; the outside hears of it once, after the last. */
export function apply(table: Table, entry: Entry, ...events: Event[]): void {
  const before = statusOf(entry);
  entry.state = events.reduce(step, entry.state);
  if (isFinal(entry.state)) settle(table, entry);
  if (statusOf(entry) !== before) table.publish(entry);
}

function settle(table: Table, entry: Entry): void {
  if (entry.tree !== null) table.living -= 1;
  const { tree, leader } = entry;
  entry.leader = null;
  entry.tree = null;
  for (const wake of entry.waiters) wake();
  entry.waiters.clear();
  logEnd(table.log, entry);
  // Whoever waits is answered first.
  setImmediate(() => {
    tree?.release();
    leader?.release();
    remember(table.history, entry.id, JSON.stringify(entry.spec.command).length);
  });
}

function forget(table: Table, id: string): void {
  const entry = table.entries.get(id);
  if (entry === undefined) return;
  table.entries.delete(id);
  const pid = "pid" in entry.state ? entry.state.pid : null;
  if (pid !== null && table.byPid.get(pid) === entry) table.byPid.delete(pid);
  const { name } = entry.spec;
  if (name !== null && table.byName.get(name) === entry) table.byName.delete(name);
  removeOutput(table.output, id).catch((error: Error) => {
    table.log.warning("cannot remove output", { id, error: error.message });
  });
}

function logEnd(log: Log, { id, spec, state }: Entry): void {
  if (state.at === "failed") {
    log.info("spawn failed", { id, name: spec.name, stage: state.stage, errno: state.errno });
  } else if ("endedMs" in state && "exit" in state) {
    const { pid, exit, endedMs, startedMs } = state;
    const how = exit.by === "code" ? exit.code : exit.by === "signal" ? exit.signal : "unknown";
    log.info(state.at, { id, name: spec.name, pid, exit: how, durationMs: endedMs - startedMs });
  }
}
