// Living processes that bear our tag, our mark or sit in a cgroup of ours, and belong to no process that
// is known: what an earlier run left, or what left its tree. Listed for people, ended only when asked.

import { type Checked, limits, type Result, type Stray } from "../../client/wire.js";
import { commandLine, isLiving, readStat, runsAs } from "../kernel/procfs.js";
import { createSlices, type Lane, shared, turn } from "../runtime/slices.js";
import { holdFound } from "../tree/found.js";
import { refusalOf, startLadder } from "../tree/ladder.js";
import { type Seen, scan } from "../tree/signs.js";
import { isTagged } from "../tree/tag.js";
import type { Sight } from "./access.js";
import { hasTree } from "./entry.js";
import type { Table } from "./table.js";

/** What is known of processes that are no strays, and of the signs that ours bear. */
export type Known = Pick<Table, "containing" | "entries" | "tags" | "socket">;

/** Looks for all there are; callers of one moment, whoever they are, share a look. */
export type Lookout = () => Promise<Found[]>;

export function createLookout(table: Known): Lookout {
  return shared(() => findAll(table));
}

/** How long strays get to end by themselves, unless the call says otherwise. */
const GRACE_MS = 10_000;

/** For their command lines: the more strays, the shorter each is cut. */
const LIST_BYTES = limits.lineBytes / 2;

type Found = Seen & Pick<Stray, "id" | "by">;

/**
 * List strays and, with `end`, end them by the ladder; the list is of those found at first. Refusal:
 * `termination_failed` with whoever outlived it.
 */
export async function strays(
  lookout: Lookout,
  params: Checked<"strays">,
  viewer: Sight,
): Promise<Result<"strays">> {
  const find = (lane: Lane) => findStrays(lookout, viewer, lane);
  const seen = await find("calls");
  const maxBytes = Math.floor(LIST_BYTES / seen.length);
  const found = seen.map((one) => describe(one, maxBytes));
  if (!params.end || found.length === 0) return { strays: found, ended: 0 };
  const tree = holdFound({ find, leader: null, tag: null, uid: null });
  const { force, graceMs = GRACE_MS } = params;
  const { gone, ended, survivors } = await startLadder(tree, {
    stopSignal: "SIGTERM",
    graceMs,
    force,
  }).outcome;
  if (gone) return { strays: found, ended };
  throw refusalOf(survivors, "Failed to end strays");
}

/** How many there are now. */
export async function countStrays(lookout: Lookout, viewer: Sight): Promise<number> {
  return (await findStrays(lookout, viewer, "calls")).length;
}

/** Of those that run as the viewer, or of all: whoever still lives, now that the viewer is told. */
async function findStrays(lookout: Lookout, viewer: Sight, lane: Lane): Promise<Found[]> {
  const all = await lookout();
  await turn(lane); // many may have shared it
  const slice = createSlices(lane);
  const seen: Found[] = [];
  for (const one of all) {
    await slice();
    if ((viewer.isAdmin || runsAs(one.pid, viewer.uid)) && isStillLiving(one)) seen.push(one);
  }
  return seen;
}

async function findAll(table: Known): Promise<Found[]> {
  const all = await scan();
  const lodgers = await strayLodgers(table);
  const members = await knownMembers(table);
  const slice = createSlices("scans");
  const found: Found[] = [];
  for (const one of all) {
    await slice();
    if (members.has(one.pid)) continue;
    const claim = claimOf(table, lodgers, one);
    if (claim !== null) found.push({ ...one, ...claim });
  }
  return found;
}

/** Whose it was, and by which sign that is known; null when it bears none of ours. */
function claimOf(
  { tags, socket, entries }: Known,
  lodgers: ReadonlyMap<number, string>,
  { pid, tag, mark }: Seen,
): Pick<Found, "id" | "by"> | null {
  const id = lodgers.get(pid);
  if (id !== undefined) return { id, by: "cgroup" };
  if (isTagged(tags, tag)) return { id: idOfTag(entries, tag), by: "tag" };
  return mark?.socket === socket ? { id: mark.id, by: "mark" } : null;
}

/** Who lives in the rooms of processes that are over, or were never known: number -> id. */
async function strayLodgers({ containing, entries }: Known): Promise<Map<number, string>> {
  const lodgers = new Map<number, string>();
  const slice = createSlices("scans");
  for (const id of containing.rooms()) {
    await slice();
    if (entries.get(id)?.tree) continue;
    for (const pid of containing.lodgers(id)) lodgers.set(pid, id);
  }
  return lodgers;
}

async function knownMembers(table: Known): Promise<Set<number>> {
  const slice = createSlices("scans");
  const answers: Promise<[PromiseSettledResult<readonly number[]>]>[] = [];
  // All trees are noted first: while one is asked, others may end. And all are asked before the first has
  // answered: where that takes a scan, they share it.
  for (const tree of [...table.entries.values()].filter(hasTree).map((entry) => entry.tree)) {
    await slice();
    answers.push(Promise.allSettled([tree.members()]));
  }
  const pids = new Set<number>([process.pid]);
  for (const [answer] of await Promise.all(answers)) {
    if (answer.status === "rejected") throw answer.reason;
    for (const pid of answer.value) pids.add(pid);
  }
  return pids;
}

/** A tag holds the last 32 bits of an id; null when no process with them is remembered. */
function idOfTag(entries: Known["entries"], tag: bigint | null): string | null {
  const end = ((tag ?? 0n) & 0xffff_ffffn).toString(16).padStart(8, "0");
  return [...entries.keys()].find((id) => id.endsWith(end)) ?? null;
}

function isStillLiving({ pid, startTicks }: Seen): boolean {
  const now = readStat(pid);
  return now !== null && now.startTicks === startTicks && isLiving(now);
}

function describe(found: Found, maxBytes: number): Stray {
  const { pid, ppid, state, id, by } = found;
  return { pid, ppid, state, command: commandLine(found, null, maxBytes), id, by };
}
