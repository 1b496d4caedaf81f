// What Linux says of processes, read from /proc and never remembered. man 5 proc.

import { closeSync, openSync, readdirSync, readSync } from "node:fs";
import { pageBytes } from "./native.js";

export type Stat = {
  pid: number;
  ppid: number;
  pgrp: number;
  session: number;
  /** One letter: R S D T t Z X I. */
  state: string;
  threads: number;
  /** Clock ticks (1/100 s) between boot and start; with the pid an identity for one boot. */
  startTicks: number;
  /** Clock ticks of user and system time so far. */
  cpuTicks: number;
  rssBytes: number;
  comm: string;
};

/** Linux reports times to user space in USER_HZ, 100 on every architecture procsup runs on. */
export const TICK_MS = 10;

const scratch = Buffer.allocUnsafe(64 * 1024);

/** One descriptor kept back, so that the truth can be read also when there is no other left. */
let reserve = openSync("/dev/null", "r");

function withReserve<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "EMFILE" && code !== "ENFILE") throw error;
    closeSync(reserve);
    try {
      return read();
    } finally {
      reserve = openSync("/dev/null", "r");
    }
  }
}

/**
 * The first `maxBytes` of a /proc file, or null when its process is gone. A single read is one
 * consistent word of the kernel.
 */
function readProc(path: string, maxBytes = 4096): string | null {
  try {
    return withReserve(() => {
      const fd = openSync(path, "r");
      try {
        return scratch.toString("latin1", 0, readSync(fd, scratch, 0, maxBytes, 0));
      } finally {
        closeSync(fd);
      }
    });
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === "ENOENT" || code === "ESRCH";
}

/** /proc/PID/stat, or null when there is no such process, not even as a zombie. */
export function readStat(pid: number): Stat | null {
  const line = readProc(`/proc/${pid}/stat`);
  if (line === null || line === "") return null;
  const open = line.indexOf("(");
  const close = line.lastIndexOf(")");
  // Field 3 (state) is fields[0]; numbers below are those of proc(5) less three.
  const fields = line.slice(close + 2).split(" ");
  const at = (field: number) => Number(fields[field - 3]);
  return {
    pid,
    comm: line.slice(open + 1, close),
    state: fields[0] ?? "?",
    ppid: at(4),
    pgrp: at(5),
    session: at(6),
    cpuTicks: at(14) + at(15),
    threads: at(20),
    startTicks: at(22),
    rssBytes: at(24) * pageBytes,
  };
}

/** A zombie is not alive, unless it is a leader whose other threads run on. */
export function isLiving(stat: Stat): boolean {
  if (stat.state === "X") return false;
  return stat.state !== "Z" || stat.threads > 1;
}

/** The command line (its first 4 KiB), arguments joined by spaces; `[comm]` where there is none, as ps prints it. */
export function commandLine(stat: Stat): string {
  const raw = readProc(`/proc/${stat.pid}/cmdline`);
  if (raw === null || raw === "") return `[${stat.comm}]`;
  return Buffer.from(raw, "latin1").toString("utf8").replace(/\0+$/, "").replaceAll("\0", " ");
}

/**
 * The process and all its descendants, parents first. Null where the kernel does not list children
 * (CONFIG_PROC_CHILDREN). Whoever was orphaned is no descendant any more: only `scan` finds those.
 */
export function descendants(pid: number): Stat[] | null {
  const found: Stat[] = [];
  const queue = [pid];
  for (const next of queue) {
    // Children first, so that a parent that is seen to live was alive when they were listed.
    const ofMainThread = readChildren(next, next);
    const stat = readStat(next);
    if (stat === null) continue;
    if (ofMainThread === null) return null;
    found.push(stat);
    queue.push(...ofMainThread);
    if (stat.threads > 1) queue.push(...childrenOfOtherThreads(next));
  }
  return found;
}

/** Null when there is no such thread, or no such file on this kernel. */
function readChildren(pid: number, thread: number): number[] | null {
  const line = readProc(`/proc/${pid}/task/${thread}/children`, scratch.length);
  if (line === null) return null;
  return line.trimEnd() === "" ? [] : line.trimEnd().split(" ").map(Number);
}

function childrenOfOtherThreads(pid: number): number[] {
  const others = listNumbers(`/proc/${pid}/task`).filter((thread) => thread !== pid);
  return others.flatMap((thread) => readChildren(pid, thread) ?? []);
}

function listNumbers(path: string): number[] {
  try {
    return withReserve(() => readdirSync(path).map(Number).filter(Number.isInteger));
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}

/**
 * Every process of this pid namespace. Reads in batches so that no other call waits more than a
 * millisecond or two, and one scan serves all who asked before it began.
 */
export const scan = shared(async () => {
  const pids = listNumbers("/proc");
  const stats: Stat[] = [];
  const BATCH = 100;
  for (let from = 0; from < pids.length; from += BATCH) {
    if (from > 0) await new Promise(setImmediate);
    for (const pid of pids.slice(from, from + BATCH)) {
      const stat = readStat(pid);
      if (stat !== null) stats.push(stat);
    }
  }
  return stats;
});

/** Callers of one moment share one run; whoever comes after it began gets a later one. */
function shared<T>(run: () => Promise<T>): () => Promise<T> {
  let begun: Promise<unknown> = Promise.resolve();
  let next: Promise<T> | null = null;
  return () => {
    next ??= begun.then(() => {
      const current = run();
      begun = current.catch(() => undefined);
      next = null;
      return current;
    });
    return next;
  };
}
