// A containment made of whatever a search finds: nothing holds its members, so they are looked for again
// at each step, stopped before they are killed, and believed gone only when two searches in a row
// find nobody and nobody else can have slipped through, or five do. What is searched for is not decided here.

import { closeSync } from "node:fs";
import type { Signal } from "../../client/wire.js";
import {
  hold,
  reachesGroups,
  signalGroup,
  signalHeld,
  signalProcess,
  untilEnded,
} from "../kernel/pidfd.js";
import { isLiving, latestNumber, listProcesses, readStat, runsAs } from "../kernel/procfs.js";
import { sitOut } from "../kernel/reserve.js";
import { createSlices, type Lane } from "../runtime/slices.js";
import { type Containment, inOrder, type Leader, type Reach, signalEach } from "./containment.js";
import { readTag, type Seen } from "./signs.js";

export type Search = {
  /** The living members, newest first; what takes long of it goes on in that lane. */
  find(lane: Lane): Promise<Seen[]>;
  /** Whose group is signalled as one; null when they never had a common leader. */
  leader: Leader | null;
  /** What all of them bear that have not shed it, and nobody else; null when there is no such tag. */
  tag: bigint | null;
  /** As whom all of them run; null where they may differ. */
  uid: number | null;
};

/** How many searches in a row are believed when they find nobody, whoever begins meanwhile. */
const SEARCHES = 5;

export function holdFound({ find: search, leader, tag, uid }: Search): Containment {
  /** For an end: whoever only asks does not stretch it. */
  const find = () => search("searches");
  let emptied: Promise<void> | null = null;
  let isGone = false;
  let sightings = 0; // of who was met by the tag alone: searches may miss them
  const isEmpty = async () => {
    if (isGone) return true;
    if (leader !== null && leader.exit === null) return false;
    isGone = await findsNobody();
    return isGone;
  };
  /**
   * Who forks and ends between two looks of one search is in neither. So one search more is made, and more
   * while others begin meanwhile: where nobody does, nobody has got away by it.
   */
  const findsNobody = async () => {
    const before = sightings;
    for (let searches = 0; searches < SEARCHES; searches++) {
      const latest = latestNumber();
      if ((await find()).length > 0 || sightings > before) return false;
      if (searches > 0 && latest !== null && latest === latestNumber()) return true;
    }
    return true;
  };
  /** One step nearer to emptiness; true when that is reached. */
  const awaitNext = async () => {
    if (await isEmpty()) return true;
    const oldest = (await find()).at(-1);
    if (oldest !== undefined) await untilGone(oldest);
    return false;
  };
  const untilEmpty = async () => {
    await leader?.exited;
    while (!(await awaitNext().catch(sitOut)));
  };
  /** STOP whoever is found, until a search finds nobody that was not stopped before: none is left to fork. */
  const stopAll = async () => {
    const stopped = new Set<string>();
    for (;;) {
      while (tag !== null && (await stopTagged(tag, uid, stopped)) > 0) sightings += 1;
      const members = await find();
      const fresh = members.filter((member) => !stopped.has(nameOf(member)));
      if (fresh.length === 0) return members;
      for (const member of fresh) stopped.add(nameOf(member));
      await signalAll(leader, fresh, ["SIGSTOP"]);
    }
  };
  return inOrder({
    kind: "group",
    members: async () => (await search("calls")).map(pidOf),
    signal: async (...signals) => signalAll(leader, await find(), signals),
    kill: async () => signalAll(leader, await stopAll(), ["SIGKILL"]),
    async pause() {
      const found = (await stopAll()).map(pidOf);
      return { found, reached: found.length, refused: [] };
    },
    isEmpty,
    emptied() {
      emptied ??= untilEmpty();
      return emptied;
    },
    release: () => undefined,
  });
}

function nameOf({ pid, startTicks }: { pid: number; startTicks: number }): string {
  return `${pid} ${startTicks}`;
}

/** The same start, and the same tag: a stranger that got the number in that tick does not bear ours. */
function isSame(seen: Seen | undefined): boolean {
  const now = seen === undefined ? null : readStat(seen.pid);
  return now !== null && now.startTicks === seen?.startTicks && readTag(now.pid) === seen.tag;
}

/** The group in one call, so that a fork cannot slip through it; then whoever is not in the group. */
async function signalAll(
  leader: Leader | null,
  members: readonly Seen[],
  signals: readonly Signal[],
): Promise<Reach> {
  const seen = new Map(members.map((member) => [member.pid, member]));
  const isOurs = (pid: number) => isSame(seen.get(pid));
  const held = leader !== null && leader.pidfd >= 0 ? leader : null;
  const inside = members.filter(({ pgrp }) => pgrp === held?.pid);
  const outside = members.filter(({ pgrp }) => pgrp !== held?.pid);
  const isOwn = held !== null && isOwnGroup(held, inside);
  const [sent] = isOwn ? signals.map((signal) => signalGroup(held, signal)) : [];
  // Nobody: the number has passed to a member that leads another group, or to none that is its own.
  const single = sent === "nobody" ? members : outside;
  const reach = await signalEach(held, single.map(pidOf), isOurs, signals);
  reach.found = members.map(pidOf);
  if (sent === "sent") reach.reached += inside.length;
  if (sent === "refused") reach.refused.push(...inside.map(pidOf));
  return reach;
}

function pidOf({ pid }: Seen): number {
  return pid;
}

/** The number of a group is nobody else's while the group has a member. */
function isOwnGroup(leader: Leader, inside: readonly Seen[]): boolean {
  return reachesGroups || leader.exit === null ? inside.length > 0 : inside.some(isSame);
}

/**
 * One quick pass that looks at tags only and stops whoever bears this one: quicker than a process can
 * change its number. Returns how many it had not stopped before.
 */
async function stopTagged(tag: bigint, uid: number | null, stopped: Set<string>): Promise<number> {
  const before = stopped.size;
  const pids = await listProcesses();
  const slice = createSlices("scans");
  for (const pid of pids) {
    await slice();
    const isOurs = () => readTag(pid) === tag && (uid === null || runsAs(pid, uid));
    if (isOurs()) stopOne(pid, isOurs, stopped);
  }
  return stopped.size - before;
}

function stopOne(pid: number, isOurs: () => boolean, stopped: Set<string>): void {
  const stat = readStat(pid);
  if (stat === null || !isLiving(stat) || stopped.has(nameOf(stat))) return;
  stopped.add(nameOf(stat));
  signalHeld(pid, isOurs, (pidfd) => signalProcess(pidfd, "SIGSTOP"));
}

async function untilGone(member: Seen): Promise<void> {
  const pidfd = hold(member.pid);
  if (pidfd === null) return;
  if (isSame(member)) await untilEnded(pidfd);
  else closeSync(pidfd);
}
