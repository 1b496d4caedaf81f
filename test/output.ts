// What scenarios of output stand on: a small cap, lines that say their place, and what lies on the disk.

import { spawnSync } from "node:child_process";
import { statSync } from "node:fs";
import { join } from "node:path";
import { is } from "uvu/assert";
import type { Client } from "../client/client.js";
import type { OutputFolder } from "../daemon/output/output.js";
import { type Daemon, type StartOptions, startDaemon } from "./daemon.js";
import { type Scene, until, whyNot } from "./scenario.js";

export const CAP = 1024 * 1024;
/** What a file system may take beside the data, to know where it lies. */
export const TREE_BYTES = 16 * 1024;
/** Of what is below the cap, so much may be gone: a step of the cap, and a line in part. */
export const LEAST_KEPT = 0.8 * CAP;

/** Lines of ten bytes, each saying its place: line N, which begins at byte 10 N, is this and N more. */
const FIRST_LINE = 100_000_000;
/** Not zeros in front: `seq -f` takes twenty times as long. */
export const numbered = (from: number, to: number) => `seq ${FIRST_LINE + from} ${FIRST_LINE + to}`;
export const LINES = 1_000_000;

export function startCapped(scene: Scene, options: StartOptions = {}): Promise<Daemon> {
  return startDaemon(scene, { ...options, args: ["--output-bytes", String(CAP)] });
}

export async function spawnShell(client: Client, script: string): Promise<string> {
  return (await client.spawn({ command: ["sh", "-c", script] })).id;
}

/** What lies on the disk, as the kernel has it; `root` is where the daemon sees it. */
export function fileOf({ state, pid }: Daemon, id: string) {
  const path = join(`/proc/${pid}/root`, state, "output", `${id}.stdout`);
  const { size, blocks, ino } = statSync(path);
  return { path, size, diskBytes: blocks * 512, ino };
}

export async function untilCapped(daemon: Daemon, id: string, size: number): Promise<void> {
  await until("all is written", () => fileOf(daemon, id).size === size, 12_000);
  const isCapped = () => fileOf(daemon, id).diskBytes <= CAP + TREE_BYTES;
  await until("the cap holds", isCapped, 12_000);
}

/** Every whole line of the text says the place at which it was told to be. */
export function isInPlace(text: string, from: number): void {
  is(from % 10, 0);
  for (const [at, line] of text.split("\n").slice(0, -1).entries()) {
    if (Number(line) !== FIRST_LINE + from / 10 + at) {
      throw new Error(`at byte ${from + 10 * at}: ${JSON.stringify(line)}`);
    }
  }
}

/** Of another process than the one that has capped it. */
export function stranger(path: string): OutputFolder {
  const silent = () => {};
  const log = { error: silent, warning: silent, info: silent, debug: silent };
  const rest = { flush: silent, setLevel: silent };
  return { path, capBytes: CAP, punches: true, freed: new Map(), log: { ...log, ...rest } };
}

/** As /proc/PID/fdinfo lists it. man 5 proc_pid_fdinfo. */
export function isWatched(pid: number, inode: number): boolean {
  const mark = ` ino:${inode.toString(16)} `;
  return spawnSync("grep", ["-rqs", mark, `/proc/${pid}/fdinfo`]).status === 0;
}

export const NO_WATCHES = 'echo 0 >/proc/sys/user/max_inotify_watches && exec "$@"';
export const noUserSpace = whyNot(["unshare", "-Ur", "sh", "-c", NO_WATCHES, "sh", "true"]);
