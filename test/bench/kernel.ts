// What the kernel says a process costs: memory, CPU time, wake-ups. To read it wakes nobody.

import { readdirSync, readFileSync } from "node:fs";

/** Resident memory, exact: VmRSS of newer kernels is an estimate. man 5 proc_pid_smaps. */
export function readRssBytes(pid: number): number {
  return 1024 * field(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"), "Rss");
}

/** CPU time and voluntary context switches of all threads since they began. */
export type Activity = { cpuMs: number; wakeUps: number };

export function readActivity(pid: number): Activity {
  const sum: Activity = { cpuMs: 0, wakeUps: 0 };
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const folder = `/proc/${pid}/task/${thread}`;
    // Its first number is the time on the CPU in ns. kernel: Documentation/scheduler/sched-stats.
    const [runNs] = readFileSync(`${folder}/schedstat`, "latin1").split(" ");
    sum.cpuMs += Number(runNs) / 1e6;
    sum.wakeUps += field(readFileSync(`${folder}/status`, "utf8"), "voluntary_ctxt_switches");
  }
  return sum;
}

function field(text: string, name: string): number {
  const value = new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1];
  if (value === undefined) throw new Error(`no ${name} in: ${text}`);
  return Number(value);
}
