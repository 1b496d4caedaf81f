// Which process a number means. A pid alone names nobody for long; with what is kept here another daemon
// can tell, later, whether the process that bears it now is the one that it meant.

import { closeSync, fstatSync, readFileSync, readlinkSync, statfsSync } from "node:fs";
import { pidfdOpen } from "../kernel/native.js";
import { readStat } from "../kernel/procfs.js";
import type { Identity } from "../life/state.js";

/** This boot of the kernel and this pid namespace: elsewhere the same numbers are other processes. */
export const boot = [
  readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim(),
  readlinkSync("/proc/self/ns/pid"),
].join(" ");

/**
 * Since Linux 6.9 pidfds live in a file system of their own, and the inode is the process: no other of
 * this boot ever has it. Before, all of them share one. include/uapi/linux/magic.h, PID_FS_MAGIC.
 */
const hasInodes = probeInodes();

function probeInodes(): boolean {
  const PID_FS_MAGIC = 0x50494446;
  const pidfd = pidfdOpen(process.pid);
  try {
    return statfsSync(`/proc/self/fd/${pidfd}`).type === PID_FS_MAGIC;
  } finally {
    closeSync(pidfd);
  }
}

/** The identity of a living process of ours, `pid`, held by `pidfd`. */
export function identify(pid: number, pidfd: number): Identity {
  if (hasInodes) return { boot, inode: inodeOf(pidfd), startTicks: null };
  return { boot, inode: null, startTicks: readStat(pid)?.startTicks ?? null };
}

/**
 * Whether the process held by `pidfd`, which bore `pid` when it was opened, is the one meant. The start
 * alone is proof enough for a stranger, and no proof for ours: ticks are 10 ms long.
 */
export function isSame({ boot: where, inode, startTicks }: Identity, pid: number, pidfd: number) {
  if (where !== boot) return false;
  if (hasInodes && inode !== null) return inodeOf(pidfd) === inode;
  return startTicks !== null && readStat(pid)?.startTicks === startTicks;
}

function inodeOf(pidfd: number): string {
  return String(fstatSync(pidfd, { bigint: true }).ino);
}
