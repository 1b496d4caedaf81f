// The cgroup v2 containment: nothing leaves it but by root's hand, one write kills all of it, and the
// kernel itself says when it is empty. Documentation/admin-guide/cgroup-v2.rst.

import {
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  watch,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { type Containing, type Containment, type Leader, signalEach } from "./containment.js";
import { enterCgroup } from "./gate.js";
import { signalGroup } from "./pidfd.js";
import { isInCgroup, isLiving, readStat, type Stat } from "./procfs.js";

/** How long a pause waits for the last member to stand still; one in the kernel stops when it leaves it. */
const FREEZE_MS = 1_000;
/** How long an empty cgroup may stay busy before it is left to the sweep of the next start. */
const REMOVE_MS = 1_000;
/** How often to look when the system has no inotify watch left: the one place that polls, while that lasts. */
const NO_WATCH_PAUSE_MS = 50;

/** One cgroup per process, named by its id, below `base`, which exists and is writable. */
export function cgroups(base: string): Containing {
  return {
    kind: "cgroup",
    prepare(id) {
      const folder = join(base, id);
      mkdirSync(folder);
      return {
        enter: (image) => enterCgroup(join(folder, "cgroup.procs"), image),
        hold: (leader) => holdCgroup(leader, folder, id),
        abandon: () => void removeSoon(folder),
      };
    },
    rooms: () => new Map(childrenOf(base).map((folder) => [basename(folder), listMembers(folder)])),
    close: () => removeSoon(base),
  };
}

function holdCgroup(leader: Leader, folder: string, id: string): Containment {
  let emptied: Promise<void> | null = null;
  let paused = false;
  let isReleased = false;
  /** The leader is a member from its first moment, also while it is on its way in. */
  const members = () => {
    if (isReleased) return [];
    const pids = listMembers(folder);
    if (leader.exit === null && !pids.includes(leader.pid)) pids.push(leader.pid);
    return pids.map(readStat).filter((stat): stat is Stat => stat !== null && isLiving(stat));
  };
  const freeze = (on: boolean) => {
    if (paused === on || isReleased) return;
    paused = on;
    writeFileSync(join(folder, "cgroup.freeze"), on ? "1" : "0");
  };
  const isEmpty = () => isReleased || (leader.exit !== null && !hasEvent(folder, "populated"));
  return {
    kind: "cgroup",
    members: async () => members(),
    async signal(...signals) {
      const reach = signalEach(leader, members(), ({ pid }) => isInCgroup(pid, id), signals);
      if (signals.includes("SIGCONT")) freeze(false);
      return reach;
    },
    async kill() {
      const found = members();
      if (found.length === 0) return { reached: 0, refused: 0 };
      // On its way in the leader is not a member yet, but its group is it. Then whoever is inside.
      if (leader.exit === null) signalGroup(leader, "SIGKILL");
      writeFileSync(join(folder, "cgroup.kill"), "1");
      // cgroup.kill passes over a zombie whose threads live (kernel: css_task_iter_advance).
      const zombies = found.filter(({ state }) => state === "Z");
      signalEach(leader, zombies, ({ pid }) => isInCgroup(pid, id), ["SIGKILL"]);
      return { reached: found.length, refused: 0 };
    },
    async pause() {
      const reached = members().length;
      freeze(true);
      await untilEvent(folder, () => hasEvent(folder, "frozen"), FREEZE_MS);
      return { reached, refused: 0 };
    },
    isEmpty: async () => isEmpty(),
    emptied() {
      emptied ??= leader.exited.then(() => untilEvent(folder, isEmpty, Number.POSITIVE_INFINITY));
      return emptied;
    },
    release() {
      isReleased = true;
      void removeSoon(folder);
    },
  };
}

/** The numbers of the processes in a cgroup and those below it; those of other pid namespaces are 0. */
function listMembers(folder: string): number[] {
  const lines = readGroupFile(folder, "cgroup.procs").split("\n");
  const own = lines.map(Number).filter((pid) => pid > 0);
  return [...own, ...childrenOf(folder).flatMap(listMembers)];
}

/** Cgroups that the tree has made itself. A folder has a link from each: no need to list most. */
function childrenOf(folder: string): string[] {
  const stat = statSync(folder, { throwIfNoEntry: false });
  if (stat === undefined || stat.nlink <= 2) return [];
  const entries = readdirSync(folder, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(folder, name));
}

/** `populated`: a living process is in it or below; `frozen`: all of them stand still. */
export function hasEvent(folder: string, key: "populated" | "frozen"): boolean {
  const text = readGroupFile(folder, "cgroup.events");
  return text.includes(`${key} 1\n`);
}

/** Empty when the cgroup is gone: only one that held nobody can have been removed. */
function readGroupFile(folder: string, name: string): string {
  try {
    return readFileSync(join(folder, name), "latin1");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENODEV") throw error;
    return "";
  }
}

/**
 * Resolves once `fact` holds, looked at now and at each change of cgroup.events, or after `limitMs`.
 * The kernel tells of changes at most every 10 ms.
 */
export function untilEvent(folder: string, fact: () => boolean, limitMs: number): Promise<void> {
  if (fact()) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const look = () => {
      try {
        if (fact()) stop(resolve);
      } catch (error) {
        stop(() => reject(error));
      }
    };
    const stopWatching = watchEvents(folder, look);
    const timer = Number.isFinite(limitMs) ? setTimeout(() => stop(resolve), limitMs) : undefined;
    const stop = (settle: () => void) => {
      stopWatching();
      clearTimeout(timer);
      settle();
    };
    look(); // once more: it may have changed before the watch stood
  });
}

function watchEvents(folder: string, look: () => void): () => void {
  try {
    const watcher = watch(join(folder, "cgroup.events"), look);
    watcher.on("error", look);
    return () => watcher.close();
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (!["EMFILE", "ENFILE", "ENOSPC"].includes(code)) throw error;
    const timer = setInterval(look, NO_WATCH_PAUSE_MS);
    return () => clearInterval(timer);
  }
}

/** Remove an empty cgroup and those below it; true when it is gone. Whoever lives in one keeps it. */
export function removeCgroup(folder: string): boolean {
  try {
    for (const child of childrenOf(folder)) removeCgroup(child);
    rmdirSync(folder);
    return true;
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return true;
    if (code !== "EBUSY" && code !== "ENOTEMPTY") throw error;
    return false;
  }
}

/** The last threads of a member that has ended may be in the kernel yet: EBUSY for some milliseconds. */
async function removeSoon(folder: string): Promise<void> {
  for (let waitMs = 1; !removeCgroup(folder) && waitMs < REMOVE_MS; waitMs *= 2) {
    if (hasEvent(folder, "populated")) return;
    await new Promise((resolve) => setTimeout(resolve, waitMs));
  }
}
