// How a process of an earlier daemon comes back into the table: by what the journal says of it and what
// the kernel says now. Nothing is started here, and a number alone convinces nobody: the process that
// bears it has to be the one that was recorded, and to bear a sign of ours.

import { closeSync } from "node:fs";
import { hold } from "../kernel/pidfd.js";
import { isLiving } from "../kernel/procfs.js";
import { boundUid } from "../kernel/users.js";
import type { Recorded } from "../life/records.js";
import { isFinal } from "../life/state.js";
import { holdCgroupAgain } from "../tree/cgroup.js";
import type { Containment, Leader } from "../tree/containment.js";
import { bearsSign, holdGroup } from "../tree/group.js";
import { boot, identify, isSame } from "../tree/identity.js";
import { departed, holdAdopted } from "../tree/leader.js";
import { listMembers } from "../tree/room.js";
import { type Seen, scan, see } from "../tree/signs.js";
import { createEntry, type Entry, hasTree } from "./entry.js";
import { followTree } from "./follow.js";
import { takeUp } from "./supervisor.js";
import { apply, bringToLife, enter, keep, keepLeader, type Table } from "./table.js";

/** What became of those who had not ended when the last word was written. */
type Found = { adopted: number; ended: number; lost: number };

/** Leaders' pidfds that were kept while no daemon lived, by the ids of their processes. */
export type Kept = ReadonlyMap<string, number>;

/**
 * Enter everybody that is recorded, then look for those who had not ended: they are adopted, or have
 * ended meanwhile, or are lost. Resolves when each is one of these. Descriptors in `kept` are ours now.
 */
export async function adoptAll(
  table: Table,
  recorded: Iterable<Recorded>,
  kept: Kept,
): Promise<Found> {
  const unended: Entry[] = [];
  const ended: Entry[] = [];
  for (const { id, spec, state } of recorded) {
    const entry = createEntry(id, spec, state);
    enter(table, entry);
    (isFinal(state) ? ended : unended).push(entry);
  }
  // In the order of their ends, so before whoever is found to have ended now: the first falls out first.
  for (const entry of ended.sort(byEnd)) keep(table, entry);
  const unendedIds = new Set(unended.map(({ id }) => id));
  for (const [id, pidfd] of kept) {
    if (unendedIds.has(id)) continue;
    closeSync(pidfd);
    table.keeper.unstore(id);
  }
  await Promise.all(unended.map((entry) => adopt(table, entry, kept.get(entry.id) ?? null)));
  const adopted = unended.filter(hasTree).length;
  const lost = unended.filter(({ state }) => state.at === "lost").length;
  return { adopted, lost, ended: unended.length - adopted - lost };
}

function byEnd(a: Entry, b: Entry): number {
  return endOf(a) - endOf(b);
}

function endOf({ state }: Entry): number {
  return "endedMs" in state ? state.endedMs : 0;
}

async function adopt(table: Table, entry: Entry, kept: number | null): Promise<void> {
  const leader = await findLeader(table, entry, kept);
  if (leader === null) {
    apply(table, entry, { on: "missing", nowMs: Date.now() });
    return;
  }
  const tree = holdTree(table, entry, leader);
  bringToLife(table, entry, leader, tree);
  if (kept === null) keepLeader(table, entry);
  const over = followTree(table, entry, leader, tree);
  if (leader.exit !== null && (await tree.isEmpty())) await over;
  else if (hasTree(entry)) takeUp(table, entry);
}

/** Null when nothing can be known of it any more: it is of another boot, or was never seen to run. */
async function findLeader(table: Table, entry: Entry, kept: number | null): Promise<Leader | null> {
  const { state } = entry;
  const isKnown = state.at !== "starting" && !isFinal(state) && state.identity.boot === boot;
  if (isKnown && kept !== null && isSame(state.identity, state.pid, kept)) {
    return holdAdopted(state.pid, kept);
  }
  if (kept !== null) closeSync(kept);
  if (state.at === "starting") return findNewborn(table, entry);
  if (!isKnown) return null;
  const { pid, identity } = state;
  const isProof = identity.inode !== null;
  const pidfd = holdIf(
    pid,
    (held) => isSame(identity, pid, held) && (isProof || bearsOwn(table, entry, pid)),
  );
  return pidfd === null ? departed(pid) : holdAdopted(pid, pidfd);
}

/** It was to be started, and perhaps was: whoever bears its signs is of it, the oldest is its leader. */
async function findNewborn(table: Table, entry: Entry): Promise<Leader | null> {
  const isOwn = ownOf(table, entry);
  const bearers = (await scan()).filter((one) => isLiving(one) && isOwn(one));
  const [oldest] = bearers.sort((a, b) => a.startTicks - b.startTicks || a.pid - b.pid);
  if (oldest === undefined) return null;
  const { pid } = oldest;
  const pidfd = holdIf(pid, () => bearsOwn(table, entry, pid));
  if (pidfd === null) return null;
  apply(table, entry, { on: "spawned", nowMs: Date.now(), pid, identity: identify(pid, pidfd) });
  return holdAdopted(pid, pidfd);
}

/** Judged while it is held: so it is not a later bearer of its number that is judged. */
function holdIf(pid: number, isOwn: (pidfd: number) => boolean): number | null {
  const pidfd = hold(pid);
  if (pidfd === null || isOwn(pidfd)) return pidfd;
  closeSync(pidfd);
  return null;
}

function bearsOwn(table: Table, entry: Entry, pid: number): boolean {
  const one = see(pid);
  return one !== null && ownOf(table, entry)(one);
}

/** Whoever is in its cgroup, or bears its signs. */
function ownOf(table: Table, { id, spec }: Entry): (one: Seen) => boolean {
  const inside = new Set(spec.room === null ? [] : listMembers(spec.room));
  const isSigned = bearsSign({ id, socket: spec.socket, tags: table.tags });
  return (one) => inside.has(one.pid) || isSigned(one);
}

/**
 * In its cgroup, wherever that was made; without one by its signs. Where a cgroup is not to be seen any more, the kernel
 * still says who is in it: of those without their leader no other is believed, whatever signs were handed on to it.
 */
function holdTree({ tags }: Table, { id, spec }: Entry, leader: Leader): Containment {
  const { room, socket, user } = spec;
  const tree = room === null ? null : holdCgroupAgain(leader, room, id);
  const inside = room !== null && leader.exit !== null;
  return tree ?? holdGroup({ leader, id, socket, tags, uid: boundUid(user), inside });
}
