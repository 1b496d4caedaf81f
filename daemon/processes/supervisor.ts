// What is done to processes: terminate, signal, pause, resume. Each verb is one function on the table; how
// trees are launched, ended and held together is left to the floors below, and who asks, over which
// door, is not known here.

import {
  type Checked,
  type Process,
  Refusal,
  type Result,
  type Signal,
} from "../../client/wire.js";
import { signalProcess } from "../kernel/pidfd.js";
import { isFinal } from "../life/state.js";
import type { Reach } from "../tree/containment.js";
import {
  type Descent,
  type Ladder,
  type Outcome,
  refusalOf,
  type Survivor,
  startLadder,
  survivalText,
  unseen,
} from "../tree/ladder.js";
import type { Viewer } from "./access.js";
import {
  alreadyTerminated,
  describe,
  type Entry,
  hasTree,
  type Living,
  statusOf,
} from "./entry.js";
import { reportNow } from "./reports.js";
import { apply, findLiving, type Table } from "./table.js";

/**
 * End the whole tree. Callers for the same tree join one ladder and get the same answer; `force`
 * or a shorter `graceMs` brings it forward for all. Refusals: `process_not_found`,
 * `already_terminated`, `termination_failed` (it stays `stopping`; the next call tries again).
 */
export async function terminate(
  table: Table,
  params: Checked<"terminate">,
  viewer: Viewer,
): Promise<Result<"terminate">> {
  const entry = findLiving(table, params, viewer);
  if (params.dryRun) return rehearse(entry);
  const ladder = ask(table, entry, params);
  if (!params.wait) return answer(entry, "stopping", "Process is being terminated", null);
  const outcome = await ladder.outcome;
  if (!outcome.gone) throw refusalOf(outcome.survivors, "Failed to terminate process");
  // The ladder and the table hear of the same emptiness; the answer tells what the table says.
  if (!isFinal(entry.state)) await new Promise<void>((ended) => entry.waiters.add(ended));
  return answer(entry, "terminated", "Process terminated successfully", outcome);
}

/** What would be ended, and nothing done about it. */
async function rehearse(entry: Living): Promise<Result<"terminate">> {
  const { members } = await reportNow(entry);
  if (!hasTree(entry)) throw alreadyTerminated(entry);
  const message = `Dry run: ${members.length} would be ended, nothing was done`;
  const status = statusOf(entry) === "stopping" ? "stopping" : "running";
  return { ...answer(entry, status, message, null), members };
}

type Wish = { force?: boolean; graceMs?: number | undefined };

/** Put on record that its end is wished for, and see to it. */
function ask(table: Table, entry: Living, wish: Wish): Ladder {
  const { force = false, graceMs = entry.spec.graceMs } = wish;
  const joins = entry.ladder !== null && entry.state.at === "stopping";
  if (!joins || force || wish.graceMs !== undefined) {
    apply(table, entry, { on: "stopAsked", nowMs: Date.now(), graceMs: force ? 0 : graceMs });
  }
  return descend(table, entry, wish);
}

/** Start the ladder of a tree, or bring the one under way forward. */
export function descend(table: Table, entry: Living, { force = false, graceMs }: Wish): Ladder {
  if (entry.ladder !== null) {
    if (force) entry.ladder.force();
    else if (graceMs !== undefined) entry.ladder.hasten(graceMs);
    return entry.ladder;
  }
  const { stopSignal } = entry.spec;
  return start(table, entry, { stopSignal, graceMs: graceMs ?? entry.spec.graceMs, force });
}

/** Go on with the end that an earlier daemon was asked for: no signal is sent twice, no grace given anew. */
export function takeUp(table: Table, entry: Living): void {
  if (entry.state.at !== "stopping") return;
  const { askedMs, graceMs, warned } = entry.state.stop;
  const leftMs = Math.min(graceMs, Math.max(0, askedMs + graceMs - Date.now())); // clocks may jump
  if (warned) start(table, entry, { stopSignal: null, graceMs: leftMs, force: false });
  else descend(table, entry, { graceMs, force: graceMs === 0 });
}

function start(table: Table, entry: Living, descent: Descent): Ladder {
  const ladder = startLadder(entry.tree, descent);
  entry.ladder = ladder;
  void ladder.warned.then(() => {
    if (entry.state.at === "stopping") apply(table, entry, { on: "warned", nowMs: Date.now() });
  });
  ladder.outcome.then(
    ({ survivors }) => {
      entry.ladder = null;
      if (survivors.length > 0) table.log.error(survivalText(survivors), { id: entry.id });
    },
    (error: Error) => {
      entry.ladder = null;
      table.log.error("a ladder broke", { id: entry.id, error: String(error.stack) });
    },
  );
  return ladder;
}

function answer(
  entry: Entry,
  status: Result<"terminate">["status"],
  message: string,
  outcome: Outcome | null,
): Result<"terminate"> {
  const { id, pid, exitCode, signal, endedAt } = describe(entry);
  return {
    success: true,
    pid: pid ?? 0,
    status,
    message,
    timestamp: endedAt ?? new Date().toISOString(),
    id,
    exitCode,
    signal,
    forced: outcome?.forced ?? false,
    ended: outcome?.ended ?? 0,
    durationMs: outcome?.durationMs ?? 0,
  };
}

/** Send one signal. The leader of a tree that it has left is refused as `already_terminated`. */
export async function sendSignal(
  table: Table,
  params: Checked<"signal">,
  viewer: Viewer,
): Promise<Result<"signal">> {
  const entry = findLiving(table, params, viewer);
  if (params.to === "tree") return { signaled: await signalTree(entry, params.signal) };
  const { leader } = entry;
  if (leader === null || leader.exit !== null) {
    const process = describe(entry);
    const message = `Process already terminated: PID ${process.pid} has left strays; signal the tree`;
    throw new Refusal("already_terminated", message, { process });
  }
  const { pid, pidfd } = leader;
  const sent = signalProcess(pidfd, params.signal);
  const refused = sent === "refused" ? [pid] : [];
  const reach = { found: [pid], reached: sent === "sent" ? 1 : 0, refused };
  return { signaled: permitted(params.signal, reach) };
}

async function signalTree(entry: Living, name: Signal): Promise<number> {
  return permitted(name, await entry.tree.signal(name));
}

function permitted(name: Signal, { reached, refused }: Reach): number {
  if (reached > 0 || refused.length === 0) return reached;
  const message = `The kernel refuses ${name}: the process runs as another user`;
  throw new Refusal("permission_denied", message, { errno: "EPERM" });
}

/** Keep every member from running. */
export async function pause(
  table: Table,
  params: Checked<"pause">,
  viewer: Viewer,
): Promise<Process> {
  const entry = findLiving(table, params, viewer);
  permitted("SIGSTOP", await entry.tree.pause());
  return describe(entry);
}

/** Let every member run again, whatever stopped it. */
export async function resume(
  table: Table,
  params: Checked<"resume">,
  viewer: Viewer,
): Promise<Process> {
  const entry = findLiving(table, params, viewer);
  await signalTree(entry, "SIGCONT");
  return describe(entry);
}

/**
 * End every process, gracefully and in parallel; called again with `force` it goes on to KILL. Resolves with
 * what survived.
 */
export async function endAll(table: Table, wish: { force: boolean }): Promise<Survivor[]> {
  const ends = [...table.entries.values()].filter(hasTree).map(async (entry) => {
    return (await ask(table, entry, wish).outcome).survivors;
  });
  const settled = await Promise.allSettled(ends);
  // What broke a ladder is on record, and somebody may be left.
  return settled.flatMap((one) => (one.status === "fulfilled" ? one.value : [unseen]));
}
