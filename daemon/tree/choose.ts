// Which containment is in force: found out once, at start, by really holding and killing a process.

import { readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { makeFolder } from "../kernel/files.js";
import { readList } from "../kernel/procfs.js";
import { CannotStart } from "../runtime/claim.js";
import type { Settings, Unit } from "../runtime/settings.js";
import { cgroups, untilEvent } from "./cgroup.js";
import type { Containing } from "./containment.js";
import { groups } from "./group.js";
import { findProgram, launch } from "./launch.js";
import { hasEvent } from "./room.js";
import type { Tags } from "./tag.js";

/** `why`: what spoke against cgroups, null where they are in force. */
type Choice = { containing: Containing; why: string | null };

/** How long the probe may take to be seen in its cgroup: some 10 ms where all is well. */
const PROBE_MS = 2_000;
/** Its own: one that a daemon died in the middle of is still there, until it is swept. */
const PROBE = `probe-${process.pid}`;

/**
 * What `wanted` says, or with `auto` cgroups where they can be had. Throws CannotStart when cgroups
 * are demanded and cannot be had.
 */
export async function chooseContainment(
  { containment: wanted, socket }: Settings,
  tags: Tags,
  { notifySocket }: Unit,
): Promise<Choice> {
  const containing = groups(tags, socket);
  if (wanted === "group") return { containing, why: "--containment=group" };
  try {
    if (notifySocket !== null) moveToLeaf();
    return { containing: await tryOut(cgroupFolder(tags)), why: null };
  } catch (cause) {
    const why = (cause as Error).message;
    if (wanted === "auto") return { containing, why };
    const fix = "delegate a cgroup to it, or use --containment=auto";
    throw new CannotStart(`--containment=cgroup cannot be had here: ${why}; ${fix}`, { cause });
  }
}

/** Where the cgroups of processes lie, those of earlier daemons too. Throws where no cgroup v2 is mounted. */
export function cgroupFolder({ key }: Tags): string {
  return join(ownCgroup(), `procsup-${key.toString(16).padStart(8, "0")}`);
}

/** The daemon's own cgroup below that of its unit. */
const LEAF = "daemon";
/** Where systemd runs what is to be run beside the daemon, like ExecStopPost=. */
const CONTROL = ".control";

/**
 * Move from the cgroup of a delegated unit into one of our own below it: cgroups with controllers hold
 * processes or other cgroups, never both. A daemon that is started again does the same, and finds what
 * it had made before beside it. Throws where nothing was delegated.
 * Documentation/admin-guide/cgroup-v2.rst, No Internal Process Constraint.
 */
function moveToLeaf(): void {
  const leaf = join(ownCgroup(), LEAF);
  makeFolder(leaf, 0o755);
  writeFileSync(join(leaf, "cgroup.procs"), "0");
}

/** The folder of the v2 cgroup that is ours to make others in. man 7 cgroups. */
function ownCgroup(): string {
  const folder = currentCgroup();
  if ([LEAF, CONTROL].includes(basename(folder))) return dirname(folder);
  // The sweep of a socket, which has its cgroup beside that of its service.
  return folder.replace(/\.socket$/, ".service");
}

function currentCgroup(): string {
  const lines = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
  // man 5 proc_pid_mountinfo: fields 4 and 5 are the mount's root and its place.
  const mount = lines.find((line) => line.includes(" - cgroup2 "))?.split(" ");
  const own = /^0::(.*)$/m.exec(readFileSync("/proc/self/cgroup", "utf8"))?.[1];
  const [, , , root = "", place = ""] = mount ?? [];
  if (mount === undefined || own === undefined) throw new Error("no cgroup v2 is mounted");
  const inside = own.startsWith(root) && root !== "/" ? own.slice(root.length) : own;
  return join(fromOctal(place), inside);
}

/** Spaces and the like stand as octal escapes. */
function fromOctal(place: string): string {
  return place.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}

/** Cgroups in the folder `base`, once they have held and killed a process. Where they cannot, nothing is left. */
async function tryOut(base: string): Promise<Containing> {
  makeFolder(base, 0o755);
  const containing = cgroups(base);
  try {
    await probe(containing, join(base, PROBE));
    return containing;
  } catch (error) {
    await containing.close();
    throw error;
  }
}

/** Does a process enter, is it seen there, does it die of the one write, and is that seen? */
async function probe(containing: Containing, folder: string): Promise<void> {
  const program = findProgram({
    command: ["sleep", "60"],
    cwd: "/",
    env: new Map(),
    account: null,
  });
  if (!program.ok) throw new Error(program.message);
  const place = containing.prepare(PROBE, null);
  const launched = launch(program, { stdout: null, stderr: null }, place, null);
  if (!launched.ok) {
    place.abandon();
    throw new Error(launched.message);
  }
  const { leader } = launched;
  const tree = place.hold(leader);
  const isInside = () => hasEvent(readList(join(folder, "cgroup.events")), "populated");
  await untilEvent(folder, isInside, PROBE_MS);
  const hasEntered = isInside();
  await tree.kill();
  await tree.emptied();
  leader.release();
  tree.release();
  if (!hasEntered) throw new Error("a process cannot enter a cgroup of ours");
}
