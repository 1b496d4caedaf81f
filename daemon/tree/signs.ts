// The signs that members bear, tag and mark, and the look at every process for them. Whom they make a
// member is decided in group.ts, whom a stray in strays.ts.

import { readLocksLimit } from "../kernel/native.js";
import {
  listProcesses,
  readProc,
  readProcBytes,
  readStat,
  SCRATCH_BYTES,
  type Stat,
} from "../kernel/procfs.js";
import { createSlices, shared } from "../runtime/slices.js";

/** The soft RLIMIT_LOCKS, also of another user's process; null when it is gone. */
export function readTag(pid: number): bigint | null {
  try {
    return readLocksLimit(pid);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPERM") throw error;
    const soft = /^Max file locks +(\d+)/m.exec(readProc(`/proc/${pid}/limits`) ?? "")?.[1];
    return soft === undefined ? null : BigInt(soft);
  }
}

/** The environment it was started with holds PROCSUP_ID and PROCSUP_SOCKET: whose it says it is. */
type Mark = { id: string; socket: string };

/** Null when it bears none, shows none (another user's), or overwrote its environment. */
function readMark(pid: number): Mark | null {
  const bytes = readProcBytes(`/proc/${pid}/environ`, SCRATCH_BYTES);
  if (bytes === null || !bytes.includes("PROCSUP_ID=")) return null;
  const variables = bytes.toString("utf8").split("\0");
  const value = (name: string) =>
    variables.find((one) => one.startsWith(`${name}=`))?.slice(name.length + 1) ?? "";
  return { id: value("PROCSUP_ID"), socket: value("PROCSUP_SOCKET") };
}

/** A process and the signs by which a member is known. */
export type Seen = Stat & { tag: bigint | null; mark: Mark | null };

/** One process with its signs; null when it is gone. */
export function see(pid: number): Seen | null {
  const tag = readTag(pid);
  const stat = readStat(pid);
  return stat === null
    ? null
    : Object.assign(stat, { tag, mark: stat.inKernel ? null : readMark(pid) });
}

/**
 * Every process of this pid namespace, kernel threads excepted, newest first: whoever changes its
 * number all the time is looked at while it still has it. One scan serves all who asked before it
 * began.
 */
export const scan = shared(async () => {
  const found: Seen[] = [];
  const pids = await listProcesses();
  const slice = createSlices("scans");
  for (const pid of pids) {
    await slice();
    const one = see(pid);
    if (one !== null && !one.inKernel) found.push(one);
  }
  return found;
});
