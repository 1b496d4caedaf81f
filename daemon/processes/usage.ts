// CPU and memory of processes, sampled only while somebody asks. The one caller of pidusage: its
// history is global, so a second one would halve what the first sees.

import pidusage from "pidusage";
import { type Stat, TICK_MS } from "../kernel/procfs.js";

type Load = { cpuPercent: number; rssBytes: number };
type Usage = { leader: Load | null; tree: Load & { members: number } };

/** What is to be measured; `leaderPid` is null once the leader is gone. */
type Subject = { leaderPid: number | null; members: () => Promise<Stat[]> };

export type Sampler = { measure(subject: Subject): Promise<Usage> };

/** CPU is a difference, so a measurement takes this long; the kernel counts in 10 ms ticks. */
const WINDOW_MS = 250;
/** pidusage keeps a descriptor a pid until it has been unasked for that long. */
const MAX_AGE_MS = 3_000;

type Ask = { subject: Subject; resolve(usage: Usage): void; reject(error: unknown): void };

/** One round at a time serves all who asked before it began. */
export function createSampler(): Sampler {
  let waiting: Ask[] = [];
  let busy = false;

  async function run(): Promise<void> {
    busy = true;
    while (waiting.length > 0) {
      const round = waiting;
      waiting = [];
      await measureRound(round);
    }
    busy = false;
  }

  return {
    measure: (subject) =>
      new Promise((resolve, reject) => {
        waiting.push({ subject, resolve, reject });
        if (!busy) void run();
      }),
  };
}

async function measureRound(round: Ask[]): Promise<void> {
  try {
    const pids = round.flatMap(({ subject }) => subject.leaderPid ?? []);
    await sampleLeaders(pids);
    const before = await Promise.all(round.map(({ subject }) => subject.members()));
    const begunMs = performance.now();
    await new Promise((resolve) => setTimeout(resolve, WINDOW_MS));
    const leaders = await sampleLeaders(pids);
    const after = await Promise.all(round.map(({ subject }) => subject.members()));
    const elapsedMs = performance.now() - begunMs;
    round.forEach(({ subject, resolve }, at) => {
      const leader = leaders.get(subject.leaderPid ?? 0) ?? null;
      resolve({ leader, tree: treeLoad(before[at] ?? [], after[at] ?? [], elapsedMs) });
    });
  } catch (error) {
    for (const ask of round) ask.reject(error);
  }
}

/** What pidusage says of each pid; a pid that ended meanwhile is not in the answer. */
async function sampleLeaders(pids: number[]): Promise<Map<number, Load>> {
  const loads = new Map<number, Load>();
  if (pids.length === 0) return loads;
  try {
    // A copy: pidusage changes the array it is given.
    const stats = await pidusage([...new Set(pids)], { maxage: MAX_AGE_MS });
    for (const pid of pids) {
      // Typed as always there, but null or missing for a process that has ended.
      const stat: pidusage.Status | null | undefined = stats[String(pid)];
      if (stat) loads.set(pid, { cpuPercent: percent(stat.cpu), rssBytes: stat.memory });
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ESRCH") throw error;
  }
  return loads;
}

function treeLoad(before: Stat[], after: Stat[], elapsedMs: number) {
  const ticksBefore = new Map(
    before.map((stat) => [`${stat.pid} ${stat.startTicks}`, stat.cpuTicks]),
  );
  let ticks = 0;
  let rssBytes = 0;
  for (const stat of after) {
    ticks += stat.cpuTicks - (ticksBefore.get(`${stat.pid} ${stat.startTicks}`) ?? 0);
    rssBytes += stat.rssBytes;
  }
  const cpuPercent = percent((100 * ticks * TICK_MS) / elapsedMs);
  return { members: after.length, cpuPercent, rssBytes };
}

function percent(value: number): number {
  return Math.round(value * 10) / 10;
}
