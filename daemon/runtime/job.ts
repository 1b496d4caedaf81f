// What the service manager is about to do with us: it sends the same SIGTERM for a stop and for the
// first half of a restart, and only the job in its queue tells which it is. systemctl is asked, once, at
// the end; it speaks to the manager directly and needs no message bus.

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";

/** systemctl takes some 10 ms; PID 1 may have a machine to shut down meanwhile. */
const ASK_MS = 5_000;

type Unit = { name: string; scope: "--system" | "--user" };

/**
 * What is queued for our unit: `stop`, `restart`, ...; null when nothing is, as after a crash, and where we
 * are in no unit. Throws when the manager cannot be asked.
 */
async function ownJob(): Promise<string | null> {
  const unit = ownUnit();
  if (unit === null) return null;
  const lines = await systemctl(unit, "list-jobs", "--no-legend", "--plain");
  // JOB UNIT TYPE STATE
  const rows = lines.split("\n").map((line) => line.trim().split(/\s+/));
  return rows.find(([, name]) => name === unit.name)?.[2] ?? null;
}

/**
 * True when the manager is going to start us again. Where it cannot be asked that is assumed: what runs
 * on can still be ended, by the sweep that asks again, but what was ended never runs again.
 */
export async function isRestart(): Promise<boolean> {
  try {
    return (await ownJob()) === "restart";
  } catch {
    return true; // whatever kept systemctl from answering
  }
}

/**
 * True when the daemon has died and the manager leaves it at that. `result` is what it made of the death,
 * in ExecStopPost= of a service only: after all but `success` it starts another (Restart=on-failure), unless
 * it was told to stop. True in no unit. Throws when it cannot be asked. man 5 systemd.exec, $SERVICE_RESULT.
 */
export async function isOver(result: string | null): Promise<boolean> {
  if (ownUnit() === null) return true;
  const job = await ownJob();
  return job === null ? result === "success" : job === "stop";
}

/** How long a stop of our unit may take before the manager sends KILL; infinite where none is set. */
export async function stopTimeoutMs(): Promise<number> {
  const unit = ownUnit();
  if (unit === null) return Number.POSITIVE_INFINITY;
  return readTimespanMs(await systemctl(unit, "show", "--property=TimeoutStopUSec", "--value"));
}

/** The service or socket whose cgroup we are in, however deep; null where that is none. man 7 cgroups. */
function ownUnit(): Unit | null {
  const text = readFileSync("/proc/self/cgroup", "utf8");
  const path = /^(?:0::|[0-9]+:name=systemd:)(\/.+)$/m.exec(text)?.[1] ?? "";
  const name = path.split("/").findLast((part) => /\.(service|socket|scope)$/.test(part));
  if (name === undefined || name.endsWith(".scope")) return null;
  return { name, scope: /\/user@[0-9]+\.service\/./.test(path) ? "--user" : "--system" };
}

async function systemctl({ name, scope }: Unit, ...args: string[]): Promise<string> {
  const limits = { timeout: ASK_MS, killSignal: "SIGKILL" } as const;
  const { stdout } = await promisify(execFile)("systemctl", [scope, ...args, name], limits);
  return stdout;
}

const unitsMs: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

/** `1min 30s` and the like, as systemctl prints them; `infinity`, months and years are for ever. */
function readTimespanMs(text: string): number {
  const parts = text.trim().split(" ");
  const times = parts.map((part) => {
    const [, amount = "", unit = ""] = /^([0-9.]+)([a-z]+)$/.exec(part) ?? [];
    return Number(amount) * (unitsMs[unit] ?? Number.POSITIVE_INFINITY);
  });
  const sum = times.reduce((total, ms) => total + ms, 0);
  return sum > 0 ? sum : Number.POSITIVE_INFINITY;
}
