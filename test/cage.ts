// What lives, told by the kernel and not by procsup: a daemon in a cage, and every process below it,
// wherever that went. The cage is a cgroup of the test's own, which no process leaves unasked; where
// none can be made, the test adopts every orphan (man 2 PR_SET_CHILD_SUBREAPER) and counts descendants.

import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from "node:fs";
import { join, relative } from "node:path";
import koffi from "koffi";
import { isAlive, type Scene, statFields, until } from "./scenario.js";

export type Cage = {
  /** The argv prefix that a program is started in the cage by; it keeps its pid. */
  readonly prefix: string[];
  /** Whatever lives in it. */
  pids(): number[];
};

/** The cgroup (version 2) that this test lives in, below which it would make its own. */
const home = cgroupOf(process.pid);

/** Why this machine lets us make no cgroup; null when it does. */
export const noCgroup: string | null = tryCgroup();

/** The containments that can be had here; the matrix prints why one cannot. */
export const containments = noCgroup === null ? ["cgroup", "group"] : ["group"];

/** A cage for this scenario. What is found in it at the end is killed and is the scenario's failure. */
export function openCage(scene: Scene): Cage {
  return noCgroup === null ? openCgroup(scene) : adoptOrphans(scene);
}

/** A cgroup of version 1 that holds its processes even against KILL. */
const freezer = "/sys/fs/cgroup/freezer";

/** Why nothing outlives KILL here; null when something can be made to. */
export const noFreezer: string | null =
  process.getuid?.() === 0 && existsSync(join(freezer, "cgroup.procs"))
    ? null
    : "needs root and a v1 freezer cgroup";

/** Keep a process even from dying, until the function returned is called, or the scenario ends. */
export async function freeze(scene: Scene, pid: number): Promise<() => void> {
  const folder = join(freezer, `procsup-test-${process.pid}`);
  mkdirSync(folder);
  scene.after(async () => void (await until("the freezer is empty", () => remove([folder]))));
  const thaw = () => writeFileSync(join(folder, "freezer.state"), "THAWED");
  scene.after(thaw);
  writeFileSync(join(folder, "cgroup.procs"), String(pid));
  writeFileSync(join(folder, "freezer.state"), "FROZEN");
  const isFrozen = () => readFileSync(join(folder, "freezer.state"), "utf8") === "FROZEN\n";
  await until("it is frozen", isFrozen);
  return thaw;
}

/** Kept from running: stopped by a signal, or in a frozen cgroup. */
export function isPaused(pid: number): boolean {
  if (statFields(pid)?.[0] === "T") return true;
  const folder = cgroupOf(pid);
  if (folder === null || folder === home) return false;
  return readFileSync(join(folder, "cgroup.events"), "utf8").includes("frozen 1\n");
}

/** Where a process lives; null where no cgroup of version 2 is to be seen. */
export function cgroupOf(pid: number): string | null {
  const mounts = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
  const mount = mounts.find((line) => line.includes(" - cgroup2 "))?.split(" ");
  const own = /^0::(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, "utf8"))?.[1];
  const [, , , root, point] = mount ?? [];
  if (root === undefined || point === undefined || own === undefined) return null;
  return join(point, relative(root, own));
}

function tryCgroup(): string | null {
  if (home === null) return "no cgroup2 file system is mounted";
  try {
    const folder = makeCgroup(home);
    const [file = "", ...args] = entering(folder);
    const { stderr } = spawnSync(file, [...args, "true"], { encoding: "utf8" });
    rmdirSync(folder);
    return stderr === "" ? null : stderr.trim();
  } catch (error) {
    return (error as Error).message;
  }
}

function makeCgroup(parent: string): string {
  for (let count = 0; ; count++) {
    const folder = join(parent, `procsup-test-${process.pid}-${count}`);
    try {
      mkdirSync(folder);
      return folder;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
}

function entering(folder: string): string[] {
  return ["/bin/sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', folder];
}

/** As `openCage` where cgroups can be made, for who has to know where it is. */
export function openCgroup(scene: Scene): Cage & { readonly folder: string } {
  const folder = makeCgroup(home ?? "");
  const below = () => [folder, ...foldersIn(folder)];
  const pids = () => below().flatMap(pidsIn);
  scene.after(async () => {
    const left = describe(pids());
    await until("the cage is empty and removed", () => {
      writeFileSync(join(folder, "cgroup.kill"), "1");
      // It passes over a zombie leader whose threads live; a signal to its number does not.
      for (const pid of pids()) sendKill(pid);
      return remove(below());
    });
    complain(left);
  });
  return { prefix: entering(folder), pids, folder };
}

/** Remove the cgroups that a killed daemon has left, they bear its key; false while one is busy. */
export function removeCgroupsOf(state: string): boolean {
  const file = join(state, "key");
  if (home === null || !existsSync(file)) return true;
  const key = Number(readFileSync(file, "utf8")).toString(16).padStart(8, "0");
  const folder = join(home, `procsup-${key}`);
  return !existsSync(folder) || remove([folder, ...foldersIn(folder)]);
}

/** Every cgroup below this one, parents before their children. */
function foldersIn(folder: string): string[] {
  return unlessGone(() => readdirSync(folder, { withFileTypes: true }))
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(folder, entry.name))
    .flatMap((inner) => [inner, ...foldersIn(inner)]);
}

/** Zombies are not listed, except leaders whose threads live (kernel: css_task_iter_advance). */
function pidsIn(folder: string): number[] {
  const lines = unlessGone(() => readFileSync(join(folder, "cgroup.procs"), "utf8").split("\n"));
  return lines.filter(Boolean).map(Number);
}

/** The daemon removes its own cgroups at any moment, also between our open and read (ENODEV). */
function unlessGone<T>(read: () => T[]): T[] {
  try {
    return read();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // ENOTSUP: a threaded one, whose processes are listed above it.
    if (!["ENOENT", "ENODEV", "ENOTSUP"].includes(String(code))) throw error;
    return [];
  }
}

/** False while one is busy: its last member has left the list but not yet the kernel. */
function remove(folders: string[]): boolean {
  try {
    for (const folder of folders.reverse()) rmdirSync(folder);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EBUSY") throw error;
    return false;
  }
}

function sendKill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

function adoptOrphans(scene: Scene): Cage {
  const PR_SET_CHILD_SUBREAPER = 36;
  const prctl = koffi.load(null).func("int prctl(int option, ...)");
  const result: number = prctl(PR_SET_CHILD_SUBREAPER, "ulong", 1);
  if (result !== 0) throw new Error(`prctl: errno ${koffi.errno()}`);
  const pids = lookTwice;
  scene.after(async () => {
    const left = describe(pids());
    await until("the cage is empty", () => {
      const living = pids();
      for (const pid of living) sendKill(pid);
      return living.length === 0;
    });
    complain(left);
  });
  return { prefix: [], pids };
}

/**
 * One look misses who takes another number meanwhile. But whoever dies is left to us as a zombie, so
 * those that are new at the second look tell of a life in between, and count.
 */
function lookTwice(): number[] {
  const before = new Set(descendantsOf(process.pid));
  return descendantsOf(process.pid).filter((pid) => isAlive(pid) || !before.has(pid));
}

function descendantsOf(ancestor: number): number[] {
  const childrenOf = new Map<number, number[]>();
  for (const pid of readdirSync("/proc").map(Number).filter(Number.isInteger)) {
    const parent = Number(statFields(pid)?.[1]);
    childrenOf.set(parent, [...(childrenOf.get(parent) ?? []), pid]);
  }
  const below = (pid: number): number[] =>
    (childrenOf.get(pid) ?? []).flatMap((child) => [child, ...below(child)]);
  return below(ancestor);
}

function complain(left: string[]): void {
  if (left.length > 0) throw new Error(`left behind: ${left.join(", ")}`);
}

/** Processes in words, for whoever reads a failed test; the first few of many. */
export function describe(pids: number[]): string[] {
  const FEW = 5;
  const words = pids.slice(0, FEW).map((pid) => {
    const [state, parent, group, session] = statFields(pid) ?? ["gone"];
    return `${pid} (${state}, parent ${parent}, group ${group}, session ${session})`;
  });
  return pids.length > FEW ? [...words, `and ${pids.length - FEW} more`] : words;
}
