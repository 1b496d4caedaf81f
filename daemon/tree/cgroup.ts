// The cgroup v2 containment: nothing leaves it but by root's hand, one write kills all of it, and the
// kernel itself says when it is empty. Documentation/admin-guide/cgroup-v2.rst.

import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmdirSync,
  statSync,
  watch,
  writeFileSync,
} from "node:fs";
import { rmdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { signalGroup } from "../kernel/pidfd.js";
import { isInCgroup, readList, readListAgain, readStat } from "../kernel/procfs.js";
import { isWithoutWatch, withReserve } from "../kernel/reserve.js";
import { oneAtATime } from "../runtime/slices.js";
import {
  type Containing,
  type Containment,
  inOrder,
  type Leader,
  signalEach,
} from "./containment.js";
import { enterCgroup } from "./gate.js";

/** How long a pause waits for the last member to stand still; one in the kernel stops when it leaves it. */
const FREEZE_MS = 1_000;
/** How long an empty cgroup may stay busy before it is left to the sweep of the next start. */
const REMOVE_MS = 1_000;
/** How often to look when the system has no inotify watch left, for as long as that lasts. */
const NO_WATCH_PAUSE_MS = 50;

/**
 * A thread of the pool waits for the kernel, which removes no cgroup while a process enters any (cgroup_mutex),
 * 20 ms at worst; one thread, since the kernel removes one at a time.
 */
const inTurn = oneAtATime();

/** A cgroup kept open, itself and its two lists: they are looked at at every turn. */
type Room = {
  readonly folder: string;
  readonly self: number;
  readonly procs: number;
  readonly events: number;
  /** What the first list said last, and whom that meant. */
  listed: { readonly text: string; readonly pids: readonly number[] };
};

function makeRoom(base: string, id: string): Room {
  const folder = join(base, id);
  try {
    mkdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    mkdirSync(base); // somebody has removed it while it was empty
    mkdirSync(folder);
  }
  try {
    return openRoom(folder);
  } catch (error) {
    rmdirSync(folder);
    throw error;
  }
}

function openRoom(folder: string): Room {
  const fds: number[] = [];
  try {
    for (const name of ["", "cgroup.procs", "cgroup.events"]) {
      fds.push(openSync(join(folder, name), "r"));
    }
    const [self = -1, procs = -1, events = -1] = fds;
    return { folder, self, procs, events, listed: { text: "", pids: [] } };
  } catch (error) {
    for (const fd of fds) closeSync(fd);
    throw error;
  }
}

function closeRoom({ folder, self, procs, events }: Room): void {
  for (const fd of [self, procs, events]) closeSync(fd);
  void removeQuietly(folder);
}

/** Of a cgroup that we have made: its id. */
function nameOf(folder: Path): string {
  return basename(folder.toString());
}

/** What goes wrong, on a mount that was made read-only, say, is told by whatever else wants a cgroup. */
function removeQuietly(folder: Path): Promise<void> {
  return removeSoon(folder).catch(() => undefined);
}

function order(folder: string, file: string, word: string): void {
  withReserve(() => writeFileSync(join(folder, file), word));
}

/** False where nothing can be written: the mount is read-only by now, or the cgroup was removed. */
function tryOrder(folder: string, file: string, word: string): boolean {
  try {
    order(folder, file, word);
    return true;
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (["EROFS", "EACCES", "EPERM", "ENOENT", "ENODEV"].includes(code)) return false;
    throw error;
  }
}

/** As `listMembers`, of a room: a folder has a link from each below it, and a tree has seldom made any. */
function membersIn(room: Room): readonly number[] {
  const { folder, self, procs } = room;
  const text = readListAgain(procs);
  if (text !== room.listed.text) room.listed = { text, pids: pidsIn(text) };
  const own = room.listed.pids;
  if (fstatSync(self).nlink <= 2) return own;
  return own.concat(childrenOf(folder).flatMap(listMembers));
}

/** One cgroup per process, named by its id, below `base`, whose folder is writable. */
export function cgroups(base: string): Containing {
  return {
    kind: "cgroup",
    room: (id) => join(base, id),
    prepare(id) {
      const room = makeRoom(base, id);
      return {
        enter: (image) => enterCgroup(join(room.folder, "cgroup.procs"), image),
        hold: (leader) => holdCgroup(leader, room, id, false),
        abandon: () => closeRoom(room),
      };
    },
    rooms: () => childrenOf(base).map(nameOf),
    lodgers: (id) => listMembers(join(base, id)),
    async sweep(known) {
      // Whoever lives in one is a stray of an earlier run: nobody is killed unasked.
      const left = childrenOf(base).filter((folder) => !known(nameOf(folder)));
      await Promise.all(left.map(removeQuietly));
    },
    close: () => removeQuietly(base),
  };
}

/** The tree in the cgroup at `folder`, made by an earlier daemon for `id`; null when that is gone. */
export function holdCgroupAgain(leader: Leader, folder: string, id: string): Containment | null {
  try {
    const wasPaused = readList(join(folder, "cgroup.freeze")) === "1\n";
    return holdCgroup(leader, openRoom(folder), id, wasPaused);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

function has({ events }: Room, key: CgroupEvent): boolean {
  return hasEvent(readListAgain(events), key);
}

/** Pauses the tree in a room, and ends a pause, also one that somebody else began. */
function createFreezer(room: Room, wasPaused: boolean) {
  const { folder } = room;
  let isPaused = wasPaused;
  return {
    freeze() {
      order(folder, "cgroup.freeze", "1");
      isPaused = true;
    },
    /** Where that cannot be done, KILL reaches it all the same. */
    thaw() {
      if (isPaused || has(room, "frozen")) isPaused = !tryOrder(folder, "cgroup.freeze", "0");
    },
  };
}

function holdCgroup(leader: Leader, room: Room, id: string, wasPaused: boolean): Containment {
  const { folder } = room;
  let emptied: Promise<void> | null = null;
  const watching = { look: () => {} };
  const freezer = createFreezer(room, wasPaused);
  let wasKilled = false;
  let isGone = false;
  const isOurs = (pid: number) => isInCgroup(pid, id);
  /** The leader is a member from its first moment, also while it is on its way in. */
  const members = () => {
    if (isGone) return [];
    const pids = membersIn(room);
    return leader.exit !== null || pids.includes(leader.pid) ? pids : [...pids, leader.pid];
  };
  /** Once empty it stays so: nobody is left to enter it. */
  const isEmpty = () => (isGone ||= leader.exit !== null && !has(room, "populated"));
  return inOrder({
    kind: "cgroup",
    members: async () => members(),
    async signal(...signals) {
      const reach = await signalEach(leader, members(), isOurs, signals);
      if (signals.includes("SIGCONT") && !isGone) freezer.thaw();
      return reach;
    },
    async kill() {
      const found = members();
      if (isEmpty()) return { found, reached: 0, refused: [] };
      // On its way in the leader is not a member yet, but its group is it. Then whoever is inside.
      if (leader.exit === null) signalGroup(leader, "SIGKILL");
      const isOrdered = tryOrder(folder, "cgroup.kill", "1");
      // It passes over a zombie whose threads live (kernel: css_task_iter_advance). To look at each of a
      // hundred while they die makes their end a tenth longer: at first nobody is looked at.
      const others = isOrdered ? (wasKilled ? found.filter(isZombie) : []) : found;
      const { refused } = await signalEach(leader, others, isOurs, ["SIGKILL"]);
      wasKilled = true;
      return { found, reached: found.length, refused };
    },
    async pause() {
      const found = members();
      if (isGone) return { found, reached: 0, refused: [] };
      freezer.freeze();
      await untilEvent(folder, () => isGone || has(room, "frozen"), FREEZE_MS);
      return { found, reached: found.length, refused: [] };
    },
    async isEmpty() {
      const isProven = isEmpty();
      if (isProven) watching.look();
      return isProven;
    },
    emptied() {
      emptied ??= leader.exited.then(() => untilEvent(folder, isEmpty, Infinity, watching));
      return emptied;
    },
    release() {
      isGone = true;
      closeRoom(room);
    },
  });
}

/**
 * The numbers of the living processes in a cgroup and those below it; none when it is gone, since only
 * one that holds nobody can be removed. Those of other pid namespaces are listed as 0.
 */
export function listMembers(folder: Path): number[] {
  const own = pidsIn(readList(within(folder, "cgroup.procs")));
  return own.concat(childrenOf(folder).flatMap(listMembers));
}

/** A tree may name the cgroups that it makes by bytes that are no text. */
type Path = string | Buffer;

function within(folder: Path, name: Path): Path {
  if (typeof folder === "string" && typeof name === "string") return join(folder, name);
  return Buffer.concat([folder, "/", name].map((part) => Buffer.from(part)));
}

function isZombie(pid: number): boolean {
  return readStat(pid)?.state === "Z";
}

function pidsIn(lines: string): number[] {
  return lines
    .split("\n")
    .map(Number)
    .filter((pid) => pid > 0);
}

/**
 * The cgroups right below one: of a tree, those that it has made itself, and may remove at any moment. A folder
 * has a link from each: no need to list most.
 */
function childrenOf(folder: Path): Path[] {
  try {
    if (statSync(folder).nlink <= 2) return [];
    const entries = withReserve(() =>
      readdirSync(folder, { withFileTypes: true, encoding: "buffer" }),
    );
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => within(folder, name));
  } catch (error) {
    // One that lies too deep for a path is killed with the others, and counts in `populated`.
    const { code = "" } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENAMETOOLONG") throw error;
    return [];
  }
}

/** `populated`: somebody lives in it or below; `frozen`: all stand still. */
type CgroupEvent = "populated" | "frozen";

/** In the text of cgroup.events. */
export function hasEvent(events: string, key: CgroupEvent): boolean {
  return events.includes(`${key} 1\n`);
}

/**
 * Resolves once `fact` holds, looked at now and at each change of cgroup.events, or after `limitMs`.
 * The kernel tells of changes at most every 10 ms, and of none where it has too many to tell: whoever knows better
 * lets it look by `watching.look`.
 */
export function untilEvent(
  folder: string,
  fact: () => boolean,
  limitMs: number,
  watching = { look: () => {} },
): Promise<void> {
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
    watching.look = look;
    look(); // once more: it may have changed before the watch stood
  });
}

function watchEvents(folder: string, look: () => void): () => void {
  try {
    const watcher = watch(join(folder, "cgroup.events"), look);
    watcher.on("error", look);
    return () => watcher.close();
  } catch (error) {
    if (!isWithoutWatch(error)) throw error;
    const timer = setInterval(look, NO_WATCH_PAUSE_MS);
    return () => clearInterval(timer);
  }
}

/** The last threads of a member that has ended may be in the kernel yet: EBUSY for some milliseconds. */
async function removeSoon(folder: Path): Promise<void> {
  for (let waitMs = 1; !(await tryRemove(folder)) && waitMs < REMOVE_MS; waitMs *= 2) {
    if (hasEvent(readList(within(folder, "cgroup.events")), "populated")) return;
    await new Promise((resolve) => setTimeout(resolve, waitMs));
  }
}

/** Remove an empty cgroup and those below it; true when it is gone. Whoever lives in one keeps it. */
async function tryRemove(folder: Path): Promise<boolean> {
  try {
    await inTurn(() => rmdir(folder));
    return true;
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return true;
    if (code === "ENAMETOOLONG") return false;
    if (code !== "EBUSY" && code !== "ENOTEMPTY") throw error;
  }
  const children = childrenOf(folder);
  for (const child of children) if (!(await tryRemove(child))) return false;
  return children.length > 0 && tryRemove(folder);
}
