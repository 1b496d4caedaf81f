// What Linux says of processes, read from /proc and never remembered. man 5 proc.

import { closeSync, openSync, type PathLike, readdirSync, readSync, statSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { pageBytes } from "./native.js";
import { isExhausted, withReserve } from "./reserve.js";

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
  /** Of a zombie, the status word of wait(2); 0 where the kernel does not show it to us. */
  waitStatus: number;
  comm: string;
  /** A kernel thread: nobody's child, nobody's member. */
  inKernel: boolean;
};

/** PF_KTHREAD of include/linux/sched.h, in field 9. */
const KERNEL_THREAD = 0x0020_0000;

/** Linux reports times to user space in USER_HZ, 100 on every architecture procsup runs on. */
export const TICK_MS = 10;

/** The most that is read of one file at once. */
export const SCRATCH_BYTES = 64 * 1024;

const scratch = Buffer.allocUnsafe(SCRATCH_BYTES);

/**
 * The first 4 KiB of a /proc file, or null when its process is gone or another user's that does not show
 * it. A single read is one consistent word of the kernel.
 */
export function readProc(path: string): string | null {
  return readProcBytes(path, PROC_BYTES)?.toString("latin1") ?? null;
}

/** As `readProc`, the first `maxBytes` of it; they are good until the next read. */
export function readProcBytes(path: string, maxBytes: number): Buffer | null {
  try {
    return withReserve(() => {
      const fd = openSync(path, "r");
      try {
        return scratch.subarray(0, readSync(fd, scratch, 0, maxBytes, 0));
      } finally {
        closeSync(fd);
      }
    });
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

/** The text of a list of the kernel's, however long; empty when it is gone, or going, or not to be had. */
export function readList(path: PathLike): string {
  try {
    return withReserve(() => {
      const fd = openSync(path, "r");
      try {
        return readListAgain(fd);
      } finally {
        closeSync(fd);
      }
    });
  } catch (error) {
    if (isGone(error) || isNoList(error)) return "";
    throw error;
  }
}

/** ENOTSUP: a threaded cgroup, whose processes its domain lists. ENAMETOOLONG: it lies too deep for a path. */
function isNoList(error: unknown): boolean {
  const { code = "" } = error as NodeJS.ErrnoException;
  return ["ENOTSUP", "ENAMETOOLONG"].includes(code);
}

/** Less than any page: a list that goes on fills its page to the last record (kernel: seq_read_iter). */
const LAST_READ_BYTES = 2048;

/** As `readList`, of a file that is kept open: the kernel writes the list anew for each read from 0. */
export function readListAgain(fd: number): string {
  let text = "";
  let position = 0;
  try {
    for (let bytes = scratch.length; bytes > LAST_READ_BYTES; position += bytes) {
      bytes = readSync(fd, scratch, 0, scratch.length, position);
      text += scratch.toString("latin1", 0, bytes);
    }
  } catch (error) {
    if (!isGone(error) && !isNoList(error)) throw error;
  }
  return text;
}

/** A file of /proc kept open, its text when it was read last, and what was made of that. */
type Kept<T> = { readonly fd: number; text: Buffer; made: T };

/**
 * Two files of one process, kept open by whoever reads them again and again: a third of the cost, and
 * never those of a later bearer of its number (ESRCH then). What the kernel says word for word as the last
 * time, as it does of whoever sleeps, is not taken apart again.
 */
export type Look = {
  readonly pid: number;
  readonly stat: Kept<Stat | null>;
  readonly cmdline: Kept<string>;
};

/** Null when the process is gone, or no descriptor is to be had. */
export function openLook(pid: number): Look | null {
  const fds: number[] = [];
  try {
    for (const name of ["stat", "cmdline"]) fds.push(openSync(`/proc/${pid}/${name}`, "r"));
    const [stat = -1, cmdline = -1] = fds;
    const text = Buffer.alloc(0);
    return { pid, stat: { fd: stat, text, made: null }, cmdline: { fd: cmdline, text, made: "" } };
  } catch (error) {
    for (const fd of fds) closeSync(fd);
    if (isGone(error) || isExhausted(error)) return null;
    throw error;
  }
}

export function closeLook({ stat, cmdline }: Look): void {
  closeSync(stat.fd);
  closeSync(cmdline.fd);
}

const PROC_BYTES = 4096;

/** What `make` makes of a file that is kept open; null when its process is gone. */
function readAgain<T>(kept: Kept<T>, make: (text: Buffer) => T): T | null {
  try {
    const bytes = readSync(kept.fd, scratch, 0, PROC_BYTES, 0);
    if (scratch.compare(kept.text, 0, kept.text.length, 0, bytes) !== 0) {
      kept.text = Buffer.from(scratch.subarray(0, bytes));
      kept.made = make(kept.text);
    }
    return kept.made;
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

/** EACCES and EPERM: another user's process does not show this file to us. ENODEV: a cgroup that is being removed. */
function isGone(error: unknown): boolean {
  const { code = "" } = error as NodeJS.ErrnoException;
  return ["ENOENT", "ENODEV", "ESRCH", "EACCES", "EPERM"].includes(code);
}

/** /proc/PID/stat, or null when there is no such process, not even as a zombie. */
export function readStat(pid: number, look: Look | null = null): Stat | null {
  if (look?.pid === pid) return readAgain(look.stat, asStat);
  const line = readProcBytes(`/proc/${pid}/stat`, PROC_BYTES);
  return line === null ? null : asStat(line);
}

function asStat(line: Buffer): Stat | null {
  if (line.length === 0) return null;
  // The name may hold anything, parentheses too; behind the last one there are only numbers.
  const open = line.indexOf(OPENING);
  const close = line.lastIndexOf(CLOSING);
  readNumbers(line, close + 4);
  const at = (field: number) => numbers[field - 4] ?? 0;
  return {
    pid: Number(line.toString("latin1", 0, open)),
    comm: line.toString("utf8", open + 1, close),
    state: line.toString("latin1", close + 2, close + 3),
    ppid: at(4),
    pgrp: at(5),
    session: at(6),
    cpuTicks: at(14) + at(15),
    threads: at(20),
    startTicks: at(22),
    rssBytes: at(24) * pageBytes,
    waitStatus: at(52),
    inKernel: (at(9) & KERNEL_THREAD) !== 0,
  };
}

/** The fields of the line read last, from field 4 of proc(5) on. */
const numbers: number[] = [];
const OPENING = 40;
const CLOSING = 41;
const SPACE = 32;
const NEWLINE = 10;
const MINUS = 45;
const ZERO = 48;

/** A scan reads thousands of lines of 52 fields: to cut each into strings takes four times as long. */
function readNumbers(line: Buffer, start: number): void {
  let count = 0;
  let value = 0;
  let sign = 1;
  for (let at = start; at < line.length; at++) {
    const byte = line[at] ?? 0;
    if (byte === SPACE || byte === NEWLINE) {
      numbers[count++] = sign * value;
      value = 0;
      sign = 1;
    } else if (byte === MINUS) sign = -1;
    else value = 10 * value + byte - ZERO;
  }
  numbers.length = count; // an older kernel's line is shorter
}

/** True when the kernel shows us, of this process, what it keeps from other users. man 5 proc. */
export function isShown(pid: number): boolean {
  const uid = process.geteuid?.();
  return uid === 0 || uidOf(pid) === uid;
}

/** The effective user of a process; null when it is gone. */
function uidOf(pid: number): number | null {
  return statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid ?? null;
}

/** Whether a process is that user's, whatever it shows: the real one of its ids. man 5 proc_pid_status. */
export function runsAs(pid: number, uid: number): boolean {
  return new RegExp(`^Uid:\\t${uid}\\t`, "m").test(readProc(`/proc/${pid}/status`) ?? "");
}

/** A zombie is not alive, unless it is a leader whose other threads run on. */
export function isLiving(stat: Stat): boolean {
  if (stat.state === "X") return false;
  return stat.state !== "Z" || stat.threads > 1;
}

/**
 * The command line (its first `maxBytes`, 4 KiB at most), arguments joined by spaces; `[comm]` where there is
 * none, as ps prints it. Of no bytes nothing.
 */
export function commandLine(
  stat: Stat,
  look: Look | null = null,
  maxBytes: number = PROC_BYTES,
): string {
  if (maxBytes === 0) return "";
  return readCommandLine(stat.pid, look, maxBytes) || `[${stat.comm}]`;
}

function readCommandLine(pid: number, look: Look | null, maxBytes: number): string | null {
  if (look?.pid === pid && maxBytes >= PROC_BYTES) return readAgain(look.cmdline, asWords);
  const bytes = readProcBytes(`/proc/${pid}/cmdline`, PROC_BYTES);
  return bytes === null ? null : asWords(bytes.subarray(0, maxBytes));
}

function asWords(bytes: Buffer): string {
  return bytes.toString("utf8").replace(/\0+$/, "").replaceAll("\0", " ");
}

/** What the kernel waits in on behalf of a process, or null where it does not say. man 5 proc_pid_wchan. */
export function waitsIn(pid: number): string | null {
  const name = readProc(`/proc/${pid}/wchan`);
  return name === null || name === "" || name === "0" ? null : name;
}

/** True when the path of its v2 cgroup has `name` among its parts. man 7 cgroups, /proc/pid/cgroup. */
export function isInCgroup(pid: number, name: string): boolean {
  const lines = readProc(`/proc/${pid}/cgroup`)?.split("\n") ?? [];
  const path = lines.find((line) => line.startsWith("0::"))?.slice(3) ?? "";
  return path.split("/").includes(name);
}

/**
 * The numbers of all processes, the newest first as far as numbers tell. The kernel looks each of them
 * up, some 5 ms for 3,000: a thread waits for that, unless no descriptor is left but those kept back.
 */
export async function listProcesses(): Promise<number[]> {
  return (await readdir("/proc").catch(listWithReserve))
    .map(Number)
    .filter(Number.isInteger)
    .sort((a, b) => b - a);
}

/**
 * The number that was given away last in this pid namespace: the same twice means that nobody has begun
 * in between. Null when the kernel does not tell. man 5 proc_loadavg.
 */
export function latestNumber(): string | null {
  return /(\d+)\n$/.exec(readProc("/proc/loadavg") ?? "")?.[1] ?? null;
}

function listWithReserve(error: NodeJS.ErrnoException): string[] {
  if (!isExhausted(error)) throw error;
  return withReserve(() => readdirSync("/proc"));
}
