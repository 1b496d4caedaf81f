// What scenarios run, and what comes of it: the test programs, a command that is ready, a pipe that holds one back,
// all that it wrote, and the refusal of a call in one word.

import { execFileSync } from "node:child_process";
import { closeSync, openSync, readFileSync, statSync, writeSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Client } from "../client/client.js";
import { type Process, Refusal } from "../client/wire.js";
import { type Scene, until } from "./scenario.js";

/** Where the test programs are, run from their sources. */
export const programs = resolve(import.meta.dirname, "../../test/programs");

/** The command of a test program. */
export function testProgram(name: string, ...args: string[]): string[] {
  return [join(programs, name), ...args];
}

type SpawnParams = Parameters<Client["spawn"]>[0];

/** Start a command that says `ready` first: then it has entered its cgroup, and its traps are set. */
export async function spawnReady(
  client: Client,
  command: string[],
  more: Omit<SpawnParams, "command"> = {},
): Promise<Process & { pid: number }> {
  const process = await client.spawn({ command, ...more });
  await untilReady(client, process.id);
  return { ...process, pid: process.pid ?? 0 };
}

export async function untilReady(client: Client, id: string, limitMs?: number): Promise<void> {
  const isReady = async () => (await client.logs({ id })).text.startsWith("ready");
  await until("it is ready", isReady, limitMs);
}

/** A pipe that a program reads from before it goes on. */
export function createLatch(scene: Scene): { path: string; open(): void } {
  const path = join(scene.folder, "latch");
  execFileSync("sh", ["-c", 'mkfifo "$1"', "sh", path]);
  const fd = openSync(path, "r+");
  scene.after(() => closeSync(fd));
  return { path, open: () => void writeSync(fd, "go\n") };
}

/**
 * The command writes `bytes` bytes under a lease on its own output (F_SETLEASE, F_WRLCK), which whoever opens it would
 * wait 45 s for; it gives the lease up, and lives on, once the latch is open. man 2 fcntl.
 */
export function leasing(bytes: number, latch: { path: string }): string[] {
  const script = [
    '$SIG{IO} = "IGNORE"; open(F, "+>>", "/proc/self/fd/1") or die $!; close(STDOUT);',
    "select(undef, undef, undef, 0.001) until fcntl(F, 1024, 1);", // not while others have it open
    'syswrite(F, "123456789\n" x ($ARGV[0] / 10));',
    'open(LATCH, "<", $ARGV[1]) or die $!; <LATCH>; fcntl(F, 1024, 2) or die $!; sleep',
  ];
  return ["perl", "-e", script.join(" "), String(bytes), latch.path];
}

/** What becomes of a lease on that file: `BREAKING` once somebody has tried to open it. man 5 proc_locks. */
export function leaseOn(path: string): "ACTIVE" | "BREAKING" | null {
  const lease = new RegExp(`LEASE +(ACTIVE|BREAKING) .*:${statSync(path).ino} `);
  const [, state] = lease.exec(readFileSync("/proc/locks", "latin1")) ?? [];
  return state === "ACTIVE" || state === "BREAKING" ? state : null;
}

/** All that a command writes to its stdout until its end. */
export async function outputOf(client: Client, params: SpawnParams): Promise<string> {
  const { id } = await client.spawn(params);
  await client.wait({ id });
  return (await client.logs({ id })).text;
}

/** The refusal that a call gets. */
export async function refusalOf(promise: Promise<unknown>): Promise<Refusal> {
  const outcome = await promise.catch((error: unknown) => error);
  if (outcome instanceof Refusal) return outcome;
  throw new Error(`it was not refused: ${JSON.stringify(outcome) ?? outcome}`, { cause: outcome });
}

/** The kind of the refusal that a call gets; any other error as text. */
export async function kindOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "no refusal",
    (error: unknown) => (error instanceof Refusal ? error.kind : String(error)),
  );
}
