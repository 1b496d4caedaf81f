// The folder of a cgroup: made, kept open, read and taken down. What is done to those who live in it is the containment's.

import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmdirSync,
  statSync,
} from "node:fs";
import { rmdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { readList, readListAgain } from "../kernel/procfs.js";
import { withReserve } from "../kernel/reserve.js";
import { oneAtATime } from "../runtime/slices.js";

/** How long an empty cgroup may stay busy before it is left to the sweep of the next start. */
const REMOVE_MS = 1_000;

/**
 * A thread of the pool waits for the kernel, which removes no cgroup while a process enters any (cgroup_mutex),
 * 20 ms at worst; one thread, since the kernel removes one at a time.
 */
const inTurn = oneAtATime();

/** A cgroup kept open, itself and its two lists: they are looked at at every turn. */
export type Room = {
  readonly folder: string;
  readonly self: number;
  readonly procs: number;
  readonly events: number;
  /** What the first list said last, and whom that meant. */
  listed: { readonly text: string; readonly pids: readonly number[] };
};

/** Throws with the kernel's errno where there is none to be had; nothing is left then. */
export function makeRoom(base: string, id: string): Room {
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

/** As it was made by an earlier daemon. Throws ENOENT when it is gone. */
export function openRoom(folder: string): Room {
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

/** Give it back; the folder goes soon, if nobody lives in it. */
export function closeRoom({ folder, self, procs, events }: Room): void {
  for (const fd of [self, procs, events]) closeSync(fd);
  void removeQuietly(folder);
}

/** Of a cgroup that we have made: its id. */
export function nameOf(folder: Path): string {
  return basename(folder.toString());
}

/** What goes wrong, on a mount that was made read-only, say, is told by whatever else wants a cgroup. */
export function removeQuietly(folder: Path): Promise<void> {
  return removeSoon(folder).catch(() => undefined);
}

/** As `listMembers`, of a room: a folder has a link from each below it, and a tree has seldom made any. */
export function membersIn(room: Room): readonly number[] {
  const { folder, self, procs } = room;
  const text = readListAgain(procs);
  if (text !== room.listed.text) room.listed = { text, pids: pidsIn(text) };
  const own = room.listed.pids;
  if (fstatSync(self).nlink <= 2) return own;
  return own.concat(childrenOf(folder).flatMap(listMembers));
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
export function childrenOf(folder: Path): Path[] {
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
export type CgroupEvent = "populated" | "frozen";

/** In the text of cgroup.events. */
export function hasEvent(events: string, key: CgroupEvent): boolean {
  return events.includes(`${key} 1\n`);
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
