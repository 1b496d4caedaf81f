// The containment where no cgroups are to be had: a tree is found again by every sign that its members
// bear. Whoever sheds all of them at once is lost to it, which is why it is called "group", not more.

import { reachesGroups, signalGroup } from "../kernel/pidfd.js";
import { isInCgroup, isLiving, readStat, runsAs } from "../kernel/procfs.js";
import { type Lane, turn } from "../runtime/slices.js";
import type { Containing, Containment, Leader } from "./containment.js";
import { holdFound } from "./found.js";
import { type Seen, scan } from "./signs.js";
import { isTagged, type Tags, tagFor } from "./tag.js";

/** `socket` is the one that the marks of this daemon name. */
export function groups(tags: Tags, socket: string): Containing {
  return {
    kind: "group",
    room: () => null,
    prepare: (id, uid) => ({
      enter: (image) => image,
      hold: (leader) => holdGroup({ leader, id, socket, tags, uid, inside: false }),
      abandon: () => undefined,
    }),
    rooms: () => [],
    lodgers: () => [],
    sweep: async () => undefined,
    close: async () => undefined,
  };
}

/** What members of a tree bear: its tag, or a mark that names `id` and `socket`. */
type Signs = { id: string; socket: string; tags: Tags };

/**
 * `uid` is everybody's, null where members may become others; `inside` says that all of them are in the cgroup of that id,
 * which is not to be seen.
 */
type Tree = Signs & { leader: Leader; uid: number | null; inside: boolean };

/**
 * Who bears the tree's tag, or its mark and no other's tag: environments are handed on (PM2 gives what
 * it starts that of whoever asked), and then the tag says whose it is.
 */
export function bearsSign({ id, socket, tags }: Signs): (one: Seen) => boolean {
  const tag = tagFor(tags, id);
  return ({ tag: own, mark }) =>
    (tag !== null && own === tag) ||
    (mark?.id === id && mark.socket === socket && !isTagged(tags, own));
}

/** The tree that bears these signs, also one whose leader has ended. */
export function holdGroup(tree: Tree): Containment {
  /** Members of the last search, number and start: they are members whatever they have shed since. */
  let known = new Map<number, number>();
  let isReleased = false;
  const find = async (lane: Lane) => {
    const all = await scan();
    await turn(lane); // many may have asked for this scan
    if (isReleased) return [];
    const found = membersAmong(all, tree, known);
    known = new Map(found.map(({ pid, startTicks }) => [pid, startTicks]));
    return found;
  };
  const release = () => {
    isReleased = true;
  };
  const { leader, uid, tags, id } = tree;
  return { ...holdFound({ find, leader, tag: tagFor(tags, id), uid }), release };
}

/** By tag, mark, group, session or earlier knowledge; then whoever descends from those. */
function membersAmong(
  all: readonly Seen[],
  { leader, uid, inside, ...signs }: Tree,
  known: ReadonlyMap<number, number>,
): Seen[] {
  const isSigned = bearsSign(signs);
  const ownsNumber = leader.exit === null || hasGroup(leader);
  const isOne = (one: Seen) =>
    isSigned(one) ||
    (ownsNumber && (one.session === leader.pid || one.pgrp === leader.pid)) ||
    known.get(one.pid) === one.startTicks;
  // Anybody can forge a sign, nobody another's uid. The leader has it only after its descent.
  const isTheirs = ({ pid }: Seen) =>
    (!inside || isInCgroup(pid, signs.id)) &&
    (uid === null || (pid === leader.pid && leader.exit === null) || runsAs(pid, uid));
  const members = new Set(all.filter((one) => isOne(one) && isTheirs(one)));
  const children = groupByParent(all.filter((one) => !members.has(one)));
  for (const member of members) {
    for (const child of children.get(member.pid) ?? []) {
      if (isChildNow(child, member) && isTheirs(child)) members.add(child);
    }
  }
  return [...members].filter(isLiving);
}

/**
 * A number passes to nobody while a group bears it, zombies included. Asked after the scan: so it was
 * ours all through it. Without the group flag the kernel cannot be asked whose group that is.
 */
function hasGroup(leader: Leader): boolean {
  return leader.pidfd >= 0 && reachesGroups && signalGroup(leader, null) !== "nobody";
}

function groupByParent(all: readonly Seen[]): Map<number, Seen[]> {
  const children = new Map<number, Seen[]>();
  for (const one of all) {
    const siblings = children.get(one.ppid);
    if (siblings === undefined) children.set(one.ppid, [one]);
    else siblings.push(one);
  }
  return children;
}

/** Asked again, child first: within a scan the parent's number may have passed to somebody else. */
function isChildNow(child: Seen, parent: Seen): boolean {
  const now = readStat(child.pid);
  if (now?.ppid !== parent.pid || now.startTicks !== child.startTicks) return false;
  return readStat(parent.pid)?.startTicks === parent.startTicks;
}
