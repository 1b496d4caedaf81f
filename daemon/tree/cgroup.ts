// The cgroup v2 containment: nothing leaves it but by root's hand, one write kills all of it, and the
// kernel itself says when it is empty. Documentation/admin-guide/cgroup-v2.rst.

import { watch, writeFileSync } from "node:fs";
import { join } from "node:path";
import { signalGroup } from "../kernel/pidfd.js";
import { isInCgroup, readList, readListAgain, readStat } from "../kernel/procfs.js";
import { isWithoutWatch, withReserve } from "../kernel/reserve.js";
import {
  type Containing,
  type Containment,
  inOrder,
  type Leader,
  signalEach,
} from "./containment.js";
import { enterCgroup } from "./gate.js";
import {
  type CgroupEvent,
  childrenOf,
  closeRoom,
  hasEvent,
  listMembers,
  makeRoom,
  membersIn,
  nameOf,
  openRoom,
  type Room,
  removeQuietly,
} from "./room.js";

/** How long a pause waits for the last member to stand still; one in the kernel stops when it leaves it. */
const FREEZE_MS = 1_000;
/** How often to look when the system has no inotify watch left, for as long as that lasts. */
const NO_WATCH_PAUSE_MS = 50;

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
      const zombies = wasKilled ? found.filter(isZombie) : [];
      const single = isOrdered ? zombies : found;
      const { refused } = await signalEach(leader, single, isOurs, ["SIGKILL"]);
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

function isZombie(pid: number): boolean {
  return readStat(pid)?.state === "Z";
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
