// The table of processes and the one writer of their states: who is known, and under which pid and name. What is
// done to them is the supervisor's.

import { type Address, Refusal } from "../../client/wire.js";
import { closeLook } from "../kernel/procfs.js";
import { createHistory, type History, type HistoryBounds, remember } from "../life/history.js";
import { append, type Journal } from "../life/journal.js";
import type { Line } from "../life/records.js";
import { type Event, isFinal, step } from "../life/state.js";
import { capOutput } from "../output/cap.js";
import { type OutputFolder, removeOutput } from "../output/output.js";
import type { Log } from "../runtime/log.js";
import type { Containing, Containment, Leader } from "../tree/containment.js";
import { bearTag, shedTag, type Tags } from "../tree/tag.js";
import { controls, countLiving, createTakings, type Takings, type Viewer } from "./access.js";
import { alreadyTerminated, type Entry, hasTree, type Living, statusOf } from "./entry.js";

/** Keeps descriptors while no daemon lives, by name: the service manager, or nobody. */
export type Keeper = {
  store(name: string, fds: number[]): boolean;
  unstore(name: string): boolean;
};

export type Table = {
  readonly log: Log;
  readonly journal: Journal;
  readonly output: OutputFolder;
  /** What holds the trees of new processes together. */
  readonly containing: Containing;
  readonly tags: Tags;
  /** The socket that children are told of, in PROCSUP_SOCKET. */
  readonly socket: string;
  readonly keeper: Keeper;
  /** Told of every change that the outside can see; `entry.state` is the new one. */
  readonly publish: (entry: Entry) => void;
  readonly entries: Map<string, Entry>;
  /** Who bears or bore a number, the latest last. */
  readonly byPid: Map<number, Entry[]>;
  /** By `nameKey`: every user has names of their own. */
  readonly byName: Map<string, Entry>;
  readonly history: History;
  /** Processes with a tree, all and by owner. */
  living: number;
  readonly takings: Takings;
  /** The daemon is going down: nothing new is started. */
  closing: boolean;
  /** And every process is ended with it. */
  ending: boolean;
};

/** An empty table. */
export function createTable(
  parts: Pick<
    Table,
    "log" | "journal" | "output" | "containing" | "tags" | "socket" | "keeper" | "publish"
  >,
  bounds: HistoryBounds,
): Table {
  const table: Table = {
    ...parts,
    entries: new Map(),
    byPid: new Map(),
    byName: new Map(),
    history: createHistory(bounds, (id) => forget(table, id)),
    living: 0,
    takings: createTakings(),
    closing: false,
    ending: false,
  };
  return table;
}

// --- looking up -----------------------------------------------------------------------------

/** Under which a name of this owner's is found. */
export function nameKey(ownerUid: number, name: string): string {
  return `${ownerUid} ${name}`;
}

/**
 * The process that is meant: by pid the latest that bore it and lives, else the latest, by name the
 * viewer's own that holds it or held it last, and for administrators, who have none of that name, anybody's. Refusals:
 * `process_not_found`; `permission_denied` for another user's.
 */
export function find(table: Table, address: Address, viewer: Viewer): Entry {
  const { pid, id, name } = address;
  const entry =
    pid !== undefined
      ? findNumbered(table, pid)
      : id !== undefined
        ? table.entries.get(id)
        : findNamed(table, name ?? "", viewer);
  if (entry !== undefined && controls(viewer, entry.spec.owner.uid)) return entry;
  const given = pid !== undefined ? `PID ${pid}` : id !== undefined ? `ID ${id}` : `name ${name}`;
  if (entry !== undefined) {
    const message = `Process of another user: ${given}`;
    throw new Refusal("permission_denied", message, { pid, id });
  }
  throw new Refusal("process_not_found", `Process not found: ${given}`, { pid, id, name });
}

function findNumbered({ byPid }: Table, pid: number): Entry | undefined {
  const bearers = byPid.get(pid);
  return bearers?.findLast(hasTree) ?? bearers?.at(-1);
}

function findNamed(table: Table, name: string, { uid, isAdmin }: Viewer): Entry | undefined {
  const own = table.byName.get(nameKey(uid, name));
  if (own !== undefined || !isAdmin) return own;
  const others = [...table.byName.values()].filter((entry) => entry.spec.name === name);
  if (others.length < 2) return others[0];
  const ids = others.map((entry) => entry.id);
  const message = `${others.length} users have a process named ${name}: say which by its id`;
  throw new Refusal("process_not_found", message, { name, ids });
}

/** As `find`, for whoever needs it alive: throws `already_terminated` with how it ended. */
export function findLiving(table: Table, address: Address, viewer: Viewer): Living {
  const entry = find(table, address, viewer);
  if (!hasTree(entry)) throw alreadyTerminated(entry);
  return entry;
}

// --- the one writer -------------------------------------------------------------------------

/** Make a process known, in the order of the spawns: under its id, its name, and its number if it has one. */
export function enter(table: Table, entry: Entry): void {
  const { id, spec } = entry;
  table.entries.set(id, entry);
  if (spec.name !== null) table.byName.set(nameKey(spec.owner.uid, spec.name), entry);
  number(table, entry);
}

/** Make it known under its number, if it has one: strays of a process may outlive its leader, whose number passes on. */
function number({ byPid }: Table, entry: Entry): void {
  const pid = "pid" in entry.state ? entry.state.pid : null;
  if (pid !== null) byPid.set(pid, [...(byPid.get(pid) ?? []), entry]);
}

function unnumber({ byPid }: Table, entry: Entry): void {
  const pid = "pid" in entry.state ? entry.state.pid : null;
  if (pid === null) return;
  const others = (byPid.get(pid) ?? []).filter((one) => one !== entry);
  if (others.length > 0) byPid.set(pid, others);
  else byPid.delete(pid);
}

/** From here on something of it may live. */
export function bringToLife(table: Table, entry: Entry, leader: Leader, tree: Containment): void {
  entry.leader = leader;
  entry.tree = tree;
  table.living += 1;
  countLiving(table.takings, entry.spec.owner.uid, 1);
  bearTag(table.tags, entry.id);
  const lastLook = capOutput(table.output, entry.id);
  entry.waiters.add(() => setImmediate(lastLook)); // whoever waits for the end is answered first
}

/** Have its leader's pidfd kept, so that its end is known even if it comes while no daemon lives. */
export function keepLeader(table: Table, entry: Entry): void {
  // Whoever waits is answered first.
  setImmediate(() => {
    const { id, leader } = entry;
    if (leader !== null && leader.pidfd >= 0) table.keeper.store(id, [leader.pidfd]);
  });
}

/** One line for each process as it stands: what the journal is when it is written anew. */
export function* currentLines(table: Table): Generator<Line> {
  for (const { id, spec, state } of table.entries.values()) yield { id, spec, state };
}

/**
 * Bring events to a process, in order, the journal first; the outside hears of it once, after the last.
 * One that cannot be written is brought all the same: what runs is never lost for a full disk.
 */
export function apply(table: Table, entry: Entry, ...events: Event[]): void {
  const before = statusOf(entry);
  const next = events.reduce(step, entry.state);
  if (next === entry.state) return;
  append(table.journal, { id: entry.id, events });
  const wasStarting = entry.state.at === "starting";
  entry.state = next;
  if (wasStarting) number(table, entry);
  entry.report = null;
  if (isFinal(entry.state)) settle(table, entry);
  if (statusOf(entry) !== before) table.publish(entry);
}

function settle(table: Table, entry: Entry): void {
  if (entry.tree !== null) {
    table.living -= 1;
    countLiving(table.takings, entry.spec.owner.uid, -1);
    shedTag(table.tags, entry.id);
  }
  const { tree, leader, look } = entry;
  entry.look = null;
  entry.told = null;
  entry.leader = null;
  entry.tree = null;
  table.keeper.unstore(entry.id);
  for (const wake of entry.waiters) wake();
  entry.waiters.clear();
  logEnd(table.log, entry);
  // Whoever waits is answered first.
  setImmediate(() => {
    tree?.release();
    leader?.release();
    if (look !== null) closeLook(look);
    keep(table, entry);
  });
}

/** Enter one that has ended into the history, which may forget it at once. */
export function keep(table: Table, { id, spec, state }: Entry): void {
  const agoMs = "endedMs" in state ? Math.max(0, Date.now() - state.endedMs) : 0;
  remember(table.history, id, { bytes: JSON.stringify(spec).length, agoMs });
}

function forget(table: Table, id: string): void {
  const entry = table.entries.get(id);
  if (entry === undefined) return;
  append(table.journal, { id, forgotten: true });
  table.entries.delete(id);
  unnumber(table, entry);
  const { name, owner } = entry.spec;
  const key = name === null ? null : nameKey(owner.uid, name);
  if (key !== null && table.byName.get(key) === entry) table.byName.delete(key);
  removeOutput(table.output, id).catch((error: Error) => {
    table.log.warning("cannot remove output", { id, error: error.message });
  });
}

function logEnd(log: Log, { id, spec, state }: Entry): void {
  const { name } = spec;
  if (state.at === "failed") {
    log.info("spawn failed", { id, name, stage: state.stage, errno: state.errno });
  } else if ("endedMs" in state && "exit" in state) {
    log.info(state.at, () => {
      const { pid, exit, endedMs, startedMs } = state;
      const how = exit.by === "code" ? exit.code : exit.by === "signal" ? exit.signal : "unknown";
      const durationMs = Math.max(0, endedMs - startedMs); // the clock may have been set back
      return { id, name, pid, exit: how, durationMs };
    });
  }
}
