// What is told of processes: list, status, wait, usage, counts. What is done to them is the supervisor's.

import {
  type Checked,
  limits,
  type Member,
  type Process,
  type Result,
  type Status,
  statuses,
} from "../../client/wire.js";
import { commandLine, isLiving, openLook, readStat, type Stat } from "../kernel/procfs.js";
import { isFinal } from "../life/state.js";
import { atTurnsEnd, createSlices, turn } from "../runtime/slices.js";
import { controls, type Sight, seesAll, type Viewer } from "./access.js";
import { describe, type Entry, hasTree, type Living, type Report, statusOf } from "./entry.js";
import { find, findLiving, type Table } from "./table.js";
import type { Sampler } from "./usage.js";

/** One line must hold a page; what is left after it is fetched with `after`. */
const PAGE_BYTES = 768 * 1024;

/** Processes in the order of their spawns. Refusal: `process_not_found` when `after` is unknown. */
export async function list(
  table: Table,
  params: Checked<"list">,
  viewer: Viewer,
): Promise<Result<"list">> {
  await turn();
  const processes: Process[] = [];
  let bytes = 0;
  const slice = createSlices();
  for (const entry of entriesAfter(table, params.after, viewer)) {
    await slice();
    if (!controls(viewer, entry.spec.owner.uid) || !isListed(entry, params)) continue;
    const process = describe(entry);
    bytes += Buffer.byteLength(JSON.stringify(process));
    if (bytes > PAGE_BYTES && processes.length > 0) {
      return { processes, next: processes.at(-1)?.id ?? null };
    }
    processes.push(process);
  }
  return { processes, next: null };
}

/** As they are now: while a page is made, any of them may be forgotten, and others begin. */
function entriesAfter(table: Table, after: string | undefined, viewer: Viewer): Entry[] {
  const entries = [...table.entries.values()];
  if (after === undefined) return entries;
  return entries.slice(entries.indexOf(find(table, { id: after }, viewer)) + 1);
}

function isListed(entry: Entry, { status: wanted, all }: Checked<"list">): boolean {
  if (wanted !== undefined) return statusOf(entry) === wanted;
  return all || !isFinal(entry.state);
}

/**
 * One process and its living members, as the kernel has them now; the more members, the shorter their
 * command lines are cut.
 */
export function inspect(
  table: Table,
  params: Checked<"status">,
  viewer: Viewer,
): Promise<Result<"status">> {
  return reportNow(find(table, params, viewer));
}

/**
 * A look at the kernel is for whoever asked before it began: for the first in a turn of the loop at once, for all
 * others of that turn, or of those that the look takes, one more when it is over.
 */
export function reportNow(entry: Entry): Promise<Result<"status">> {
  const { report } = entry;
  if (report === null) return beginReport(entry);
  const isOver = () => Promise.allSettled([report.told, new Promise<void>(atTurnsEnd)]);
  report.next ??= isOver().then(() => reportNow(entry));
  return report.next;
}

function beginReport(entry: Entry): Promise<Result<"status">> {
  const report: Report = { told: makeReport(entry), next: null };
  entry.report = report;
  let unfinished = 2; // the look, and the turn in which it began
  const finish = () => {
    unfinished -= 1;
    if (unfinished === 0 && entry.report === report) entry.report = null;
  };
  report.told.then(finish, finish); // whoever asked gets the error
  atTurnsEnd(finish);
  return report.told;
}

async function makeReport(entry: Entry): Promise<Result<"status">> {
  if (!hasTree(entry)) return asReport(entry, []);
  const members = await membersOf(entry);
  if (!hasTree(entry)) return asReport(entry, []); // it has ended meanwhile
  const { state, told } = entry;
  if (told?.state === state && isSame(told.result.members, members)) return told.result;
  const result = asReport(entry, members);
  entry.told = members.length <= FEW_MEMBERS ? { state, result } : null;
  return result;
}

/** A copy of so many fields would take a microsecond. */
function asReport(entry: Entry, members: Member[]): Result<"status"> {
  return Object.assign(describe(entry), { members });
}

function isSame(before: readonly Member[], now: readonly Member[]): boolean {
  return (
    before.length === now.length &&
    before.every((was, at) => {
      const is = now[at];
      return (
        was.pid === is?.pid &&
        was.ppid === is.ppid &&
        was.state === is.state &&
        was.command === is.command
      );
    })
  );
}

/** Parents come before their children. */
async function membersOf(entry: Living): Promise<Member[]> {
  entry.look ??= entry.leader?.exit === null ? openLook(entry.leader.pid) : null;
  const pids = await entry.tree.members();
  const maxBytes = roomForEach(pids.length, entry);
  const slice = createSlices();
  const found: { stat: Stat; command: string }[] = [];
  for (const pid of pids) {
    await slice();
    // Of the leader alone: its number may be another member's once it has ended.
    const look = entry.leader?.exit === null ? entry.look : null;
    const stat = readStat(pid, look);
    if (stat === null || !isLiving(stat)) continue;
    found.push({ stat, command: commandLine(stat, look, maxBytes) });
  }
  const byAge = found.sort(
    (a, b) => a.stat.startTicks - b.stat.startTicks || a.stat.pid - b.stat.pid,
  );
  return byAge.map(({ stat: { pid, ppid, state }, command }) => ({ pid, ppid, state, command }));
}

/** For so many there is room beside the longest command, and memory for what was told of them last. */
const FEW_MEMBERS = 4;

/** What a member takes of a line beside its command line, and a process beside its command. */
const MEMBER_BYTES = 64;
const PROCESS_BYTES = 32 * 1024;

/** The bytes of a line that are left for each member's command line; all that it needs, for a few. */
function roomForEach(members: number, { spec }: Entry): number | undefined {
  if (members <= FEW_MEMBERS) return undefined;
  const takenBytes = PROCESS_BYTES + Buffer.byteLength(JSON.stringify(spec.command));
  return Math.max(0, Math.floor((limits.lineBytes - takenBytes) / members) - MEMBER_BYTES);
}

async function livingOf(pids: readonly number[]): Promise<Stat[]> {
  const slice = createSlices();
  const stats: Stat[] = [];
  for (const pid of pids) {
    await slice();
    const stat = readStat(pid);
    if (stat !== null && isLiving(stat)) stats.push(stat);
  }
  return stats;
}

/**
 * Resolves when the process has ended, when `timeoutMs` is over, or when the caller is gone: then
 * nobody is left to answer, and nothing of the call remains.
 */
export async function wait(
  table: Table,
  params: Checked<"wait">,
  viewer: Viewer,
  onCallerGone: (fn: () => void) => () => void,
): Promise<Result<"wait">> {
  const entry = find(table, params, viewer);
  if (!isFinal(entry.state)) await untilEnded(entry, params.timeoutMs, onCallerGone);
  return { ended: isFinal(entry.state), process: describe(entry) };
}

function untilEnded(
  entry: Entry,
  timeoutMs: number | undefined,
  onCallerGone: (fn: () => void) => () => void,
): Promise<void> {
  return new Promise((resolve) => {
    const timer = timeoutMs === undefined ? null : setTimeout(done, timeoutMs);
    const stayed = onCallerGone(done);
    entry.waiters.add(done);
    function done(): void {
      if (timer !== null) clearTimeout(timer);
      stayed();
      entry.waiters.delete(done);
      resolve();
    }
  });
}

/** CPU and memory of leader and tree, over a short window that begins now. */
export async function usage(
  table: Table,
  sampler: Sampler,
  params: Checked<"usage">,
  viewer: Viewer,
): Promise<Result<"usage">> {
  const entry = findLiving(table, params, viewer);
  const { tree, leader } = entry;
  const { pid } = describe(entry);
  const leaderPid = leader === null || leader.exit !== null ? null : leader.pid;
  const measured = await sampler.measure({
    leaderPid,
    members: async () => livingOf(await tree.members()),
  });
  return { id: entry.id, pid: pid ?? 0, ...measured, timestamp: new Date().toISOString() };
}

/** How many processes the viewer sees in each status. */
export function counts(table: Table, viewer: Sight): Record<Status, number> {
  const zero = Object.fromEntries(statuses.map((name) => [name, 0])) as Record<Status, number>;
  for (const entry of table.entries.values()) {
    if (controls(viewer, entry.spec.owner.uid)) zero[statusOf(entry)] += 1;
  }
  return zero;
}

/** The living in a few words, for `systemctl status`. */
export function summary(table: Table): string {
  const all = counts(table, seesAll);
  const living = (["starting", "running", "stopping"] as const).filter((name) => all[name] > 0);
  return living.map((name) => `${all[name]} ${name}`).join(", ") || "no processes";
}
