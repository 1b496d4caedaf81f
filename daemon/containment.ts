// What holds a tree together: the interface, and behind it the process group. Containments find
// members, signal them and prove that none is left; when and why to signal is the ladder's business.

import type { ContainmentKind, Signal } from "../client/wire.js";
import { pidfdEnded, pidfdOpen } from "./native.js";
import { descendants, isLiving, readStat, type Stat, scan } from "./procfs.js";
import type { Exit } from "./state.js";

/**
 * The first process of a tree: a child of this daemon. `exit` is set in the very callback that
 * reports it, `exited` resolves right after; the pid is nobody else's for as long as `exit` is null.
 */
export type Leader = { readonly pid: number; exit: Exit | null; readonly exited: Promise<void> };

export interface Containment {
  readonly kind: ContainmentKind;
  /** The living members, as the kernel has them now. */
  members(): Promise<Stat[]>;
  /** False proves that no living member is left; true may be owed to zombies. Cheap, synchronous. */
  populated(): boolean;
  /**
   * Send one signal to every member. Nobody left is success; false when the kernel lets us signal
   * none of them (EPERM). Must not be called from an exit callback: libuv reaps all dead children
   * before it reports the first, so a number may be a stranger's there.
   */
  signal(signal: Signal): Promise<boolean>;
  /** Resolves once no living member is left; the same promise at each call. */
  emptied(): Promise<void>;
}

/** A pause when no pidfd is to be had (EMFILE): the one place that polls, and only while that lasts. */
const NO_PIDFD_PAUSE_MS = 50;

/**
 * The process group of a detached leader, which is also its session. Holds whatever does not call
 * setsid or setpgid. A group number cannot be recycled while the group has a member, zombies
 * included, so signals by number are safe while the leader is unreaped or a member was just seen.
 */
export function processGroup(leader: Leader): Containment {
  const pgid = leader.pid;
  let emptied: Promise<void> | null = null;

  const group: Containment = {
    kind: "group",
    async members() {
      if (leader.exit !== null) return group.populated() ? membersOf(pgid, await scan(), true) : [];
      return membersOf(pgid, treeBelow(pgid) ?? (await scan()), false);
    },
    populated: () => send(pgid, 0) !== "nobody",
    async signal(signal) {
      if (leader.exit !== null && !(await group.members()).some(isStillThere)) return true;
      return send(pgid, signal) !== "refused";
    },
    emptied() {
      emptied ??= untilEmpty(leader, group);
      return emptied;
    },
  };
  return group;
}

/** `kill(-pgid, 0)` also succeeds for zombies: only "nobody" is proof of anything. man 2 kill. */
function send(pgid: number, signal: Signal | 0): "sent" | "nobody" | "refused" {
  try {
    process.kill(-pgid, signal);
    return "sent";
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ESRCH") return "nobody";
    if (code === "EPERM") return "refused";
    throw error;
  }
}

function membersOf(pgid: number, stats: Stat[], leaderGone: boolean): Stat[] {
  // Our leader is reaped: whoever bears its number started a group of his own, after ours had died.
  if (leaderGone && stats.some((stat) => stat.pid === pgid)) return [];
  return stats.filter((stat) => stat.pgrp === pgid && stat.session === pgid && isLiving(stat));
}

/**
 * The cheap way to the members while the leader lives: its descendants. Null when it has died: then
 * its children are init's.
 */
function treeBelow(pid: number): Stat[] | null {
  const found = descendants(pid);
  const [leader] = found ?? [];
  return leader !== undefined && isLiving(leader) ? found : null;
}

function isStillThere(seen: Stat): boolean {
  const now = readStat(seen.pid);
  return now !== null && now.startTicks === seen.startTicks && now.pgrp === seen.pgrp;
}

/** The leader's end is an event; of the others one living member is watched at a time. */
async function untilEmpty(leader: Leader, group: Containment): Promise<void> {
  await leader.exited;
  while (group.populated()) {
    const last = (await group.members()).at(-1);
    if (last === undefined) return;
    await endOf(last);
  }
}

async function endOf(member: Stat): Promise<void> {
  let pidfd: number;
  try {
    pidfd = pidfdOpen(member.pid);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ESRCH") return;
    if (code !== "EMFILE" && code !== "ENFILE") throw error;
    await new Promise((resolve) => setTimeout(resolve, NO_PIDFD_PAUSE_MS));
    return;
  }
  const ended = pidfdEnded(pidfd);
  if (isStillThere(member)) await ended;
}
