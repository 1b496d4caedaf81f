// Living processes that bear our tag, our mark or sit in a cgroup of ours, and belong to no process that
// is known: what an earlier run left, or what left its tree. Listed for people, ended only when asked.

import { type Checked, Refusal, type Result, type Stray } from "../client/wire.js";
import type { Sight } from "./access.js";
import { holdFound } from "./found.js";
import { startLadder } from "./ladder.js";
import { commandLine, isLiving, readStat, uidOf } from "./procfs.js";
import { type Seen, scan } from "./signs.js";
import { createSlices } from "./slices.js";
import { survivalText } from "./supervisor.js";
import { isLiving as hasTree, type Table } from "./table.js";
import { isTagged } from "./tag.js";

/** What is known of processes that are no strays, and of the signs that ours bear. */
export type Known = Pick<Table, "containing" | "entries" | "tags" | "socket">;

/** How long strays get to end by themselves, unless the call says otherwise. */
const GRACE_MS = 10_000;

type Found = Seen & Pick<Stray, "id" | "by">;

/**
 * List strays and, with `end`, end them by the ladder; the list is of those found at first. Refusal:
 * `termination_failed` with whoever outlived it.
 */
export async function strays(
  table: Known,
  params: Checked<"strays">,
  viewer: Sight,
): Promise<Result<"strays">> {
  const find = () => findStrays(table, viewer);
  const found = (await find()).map(describe);
  if (!params.end || found.length === 0) return { strays: found, ended: 0 };
  const tree = holdFound({ find, leader: null, tag: null, uid: null });
  const { force, graceMs = GRACE_MS } = params;
  const { gone, ended, survivors } = await startLadder(tree, {
    stopSignal: "SIGTERM",
    graceMs,
    force,
  }).outcome;
  if (gone) return { strays: found, ended };
  const message = `Failed to end strays: ${survivalText(survivors)}`;
  throw new Refusal("termination_failed", message, { survivors });
}

/** How many there are now. */
export async function countStrays(table: Known, viewer: Sight): Promise<number> {
  return (await findStrays(table, viewer)).length;
}

/** Of those that run as the viewer, or of all. */
async function findStrays(table: Known, viewer: Sight): Promise<Found[]> {
  const all = await scan();
  const rooms = [...table.containing.rooms()].filter(([id]) => !table.entries.get(id)?.tree);
  const idOfRoom = new Map(rooms.flatMap(([id, pids]) => pids.map((pid) => [pid, id] as const)));
  const suspects = all.flatMap((one): Found[] => {
    const id = idOfRoom.get(one.pid);
    if (id !== undefined) return [{ ...one, id, by: "cgroup" }];
    if (isTagged(table.tags, one.tag)) return [{ ...one, id: idOfTag(table, one.tag), by: "tag" }];
    const { mark } = one;
    return mark?.socket === table.socket ? [{ ...one, id: mark.id, by: "mark" }] : [];
  });
  const members = await knownMembers(table);
  const isTheirs = ({ pid }: Found) => viewer.isAdmin || uidOf(pid) === viewer.uid;
  return suspects.filter((one) => !members.has(one.pid) && isStillLiving(one) && isTheirs(one));
}

async function knownMembers(table: Known): Promise<Set<number>> {
  const pids = new Set<number>([process.pid]);
  const slice = createSlices();
  // All trees are noted first: while one is asked, others may end.
  for (const tree of [...table.entries.values()].filter(hasTree).map((entry) => entry.tree)) {
    await slice();
    for (const pid of await tree.members()) pids.add(pid);
  }
  return pids;
}

/** A tag holds the last 32 bits of an id; null when no process with them is remembered. */
function idOfTag(table: Known, tag: bigint | null): string | null {
  const end = ((tag ?? 0n) & 0xffff_ffffn).toString(16).padStart(8, "0");
  return [...table.entries.keys()].find((id) => id.endsWith(end)) ?? null;
}

function isStillLiving({ pid, startTicks }: Seen): boolean {
  const now = readStat(pid);
  return now !== null && now.startTicks === startTicks && isLiving(now);
}

function describe(found: Found): Stray {
  const { pid, ppid, state, id, by } = found;
  return { pid, ppid, state, command: commandLine(found), id, by };
}
