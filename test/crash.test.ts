// kill -9 of the daemon at every line of its journal, and at random instants under load; afterwards the
// word of the next daemon is compared with the kernel's. PROCSUP_CRASHES says how many random instants
// are tried in each containment: few here, 500 by `npm run test:crash`.

import { type ChildProcess, spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, ok } from "uvu/assert";
import { listAll } from "../client/cli/pages.js";
import { type Client, Disconnected } from "../client/client.js";
import { type Process, Refusal } from "../client/wire.js";
import { type Cage, containments, openCage } from "./cage.js";
import { testProgram } from "./commands.js";
import { crash, type Daemon, startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenario, until } from "./scenario.js";

const RANDOM_ROUNDS = Number(process.env["PROCSUP_CRASHES"] ?? 2);
/** More lines than the script may write: the last rounds crash after its end. */
const LINES = 30;
const LONGEST_MS = 600;
/** A TERM between a program's fork and its exec is lost on the child, which then lives until KILL. */
const GRACE_MS = 300;
const ROUND_LIMIT_MS = 30_000;

/** What clients were told before the crash: that much must be true after it. */
type Told = { spawned: Map<string, Process>; ended: Map<string, Process> };

/** What a leader can have ended by: what it does by itself, or what it was sent. */
const possible: Record<string, (string | number)[]> = {
  code: [3, "SIGTERM", "SIGKILL"],
  sleep: ["SIGTERM", "SIGKILL"],
  tree: ["SIGTERM", "SIGKILL"],
  // Told before its trap is set, it minds.
  stubborn: ["SIGKILL", "SIGTERM"],
  stray: [5, "SIGTERM", "SIGKILL"],
  escape: ["SIGTERM", "SIGKILL", 0],
};

function commands(folder: string): Record<string, string[]> {
  return {
    sleep: ["sleep", "1000"],
    code: ["sh", "-c", "exit 3"],
    tree: testProgram("forks-child.sh"),
    stubborn: testProgram("ignores-term.sh"),
    stray: testProgram("leaves-stray.sh", join(folder, "stray")),
    escape: testProgram("daemonizes.sh"),
  };
}

/** One of everything that writes lines. Ends early, without a word, when the daemon dies. */
async function play(client: Client, folder: string, told: Told): Promise<void> {
  const start = async (kind: string) => {
    const process = await client.spawn({ command: commands(folder)[kind] ?? [] });
    told.spawned.set(process.id, process);
    return process.id;
  };
  const end = async (id: string, more: object = {}) => {
    await client.terminate({ id, graceMs: GRACE_MS, ...more });
    const { members: _, ...ended } = await client.status({ id });
    told.ended.set(id, ended);
  };
  const sleeper = await start("sleep");
  const coded = await start("code");
  told.ended.set(coded, (await client.wait({ id: coded })).process);
  const tree = await start("tree");
  await client.pause({ id: sleeper });
  await end(tree);
  await client.resume({ id: sleeper });
  await Promise.all([
    start("stubborn").then((id) => end(id, { graceMs: 30 })),
    start("stray"),
    start("escape").then((id) => end(id)),
  ]);
  await end(sleeper, { force: true });
}

async function untilItDies(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (error instanceof Disconnected) return;
    // Two that end at once: the one that was asked to end had ended by itself.
    if (!(error instanceof Refusal) || error.kind !== "already_terminated") throw error;
  }
}

/** When to strike, told how many lines this round has written, and whether it will write no more. */
type Strike = (linesNow: () => number, isOver: () => boolean) => Promise<unknown>;

type Stage = { scene: Scene; cage: Cage; args: string[] };

/**
 * Play, crash, restart, compare, end everything, and so on: the daemon that comes back is the next to
 * die. Returns how many processes were compared.
 */
async function playRounds(stage: Stage, actors: number, strikes: Strike[]): Promise<number> {
  const { scene, cage, args } = stage;
  const bystander = spawn("sleep", ["1000"], { stdio: "ignore" });
  scene.after(() => void bystander.kill("SIGKILL"));
  const options = { args, prefix: cage.prefix };
  let daemon = await startDaemon(scene, options);
  let known = 0;
  for (const [round, strike] of strikes.entries()) {
    const told: Told = { spawned: new Map(), ended: new Map() };
    await playUntil(daemon, actors, scene.folder, told, strike);
    daemon = await startDaemon(scene, options);
    const { log } = daemon;
    try {
      const client = await daemon.connect();
      known += await compare(client, daemon, cage, told);
      await endAll(client);
      await until("nobody is left", () => cage.pids().every((pid) => pid === daemon.pid));
      assertLives(bystander);
      ok(!log.some((line) => line.includes("unforeseen")));
    } catch (error) {
      const { message } = error as Error;
      throw new Error(`round ${round}: ${message}\n${log.join("\n")}`, { cause: error });
    }
  }
  await crash(daemon);
  return known;
}

async function playUntil(
  daemon: Daemon,
  actors: number,
  folder: string,
  told: Told,
  strike: Strike,
): Promise<void> {
  const before = linesOf(daemon);
  const clients = await Promise.all(Array.from({ length: actors }, () => daemon.connect()));
  const work = Promise.all(clients.map((client) => untilItDies(play(client, folder, told))));
  let isOver = false;
  const played = work.finally(() => {
    isOver = true;
  });
  await strike(
    () => linesOf(daemon) - before,
    () => isOver,
  );
  await crash(daemon);
  await played;
}

function assertLives(bystander: ChildProcess): void {
  is(isAlive(bystander.pid ?? 0), true, "a bystander was hit");
}

/** The next daemon's word against the kernel's, and against what was said before. */
async function compare(client: Client, daemon: Daemon, cage: Cage, told: Told): Promise<number> {
  await until("those that live are those that it knows", async () => {
    const { processes } = await client.list({});
    const members = await Promise.all(
      processes.map(async ({ id }) => (await client.status({ id })).members),
    );
    const known = members.flat().map((one) => one.pid);
    const living = cage.pids().filter((pid) => pid !== daemon.pid && isAlive(pid));
    return String(known.sort()) === String(living.sort());
  });
  equal((await client.strays({})).strays, []);
  const processes = await listAll(client, { all: true });
  const byId = new Map(processes.map((one) => [one.id, one]));
  is(byId.size, processes.length, "one is listed twice");
  for (const { id, pid } of told.spawned.values())
    is(byId.get(id)?.pid, pid, `${id} was told to be ${pid}`);
  for (const [id, was] of told.ended) equal(byId.get(id), was, `${id} was told to have ended`);
  for (const one of processes) assertPossible(one);
  return processes.length;
}

function assertPossible({ command, exitCode, signal, exit }: Process): void {
  if (exit === null || exit === "unknown") {
    equal([exitCode, signal], [null, null]);
    return;
  }
  const [kind = ""] =
    Object.entries(commands("")).find(
      ([, argv]) => argv[0] === command[0] && argv.length === command.length,
    ) ?? [];
  ok(
    possible[kind]?.includes(exitCode ?? signal ?? ""),
    `${command.join(" ")}: ${exitCode} ${signal}`,
  );
}

async function endAll(client: Client): Promise<void> {
  const { processes } = await client.list({});
  const ends = processes.map(({ id }) => client.terminate({ id, force: true }));
  for (const end of await Promise.allSettled(ends)) {
    if (end.status === "fulfilled") continue;
    if ((end.reason as Refusal).kind !== "already_terminated") throw end.reason;
  }
}

function linesOf({ state }: Daemon): number {
  return readFileSync(join(state, "journal"), "latin1").split("\n").length - 1;
}

/** At the line of that number, or when the script is over, where it has written fewer. */
function atLine(line: number): Strike {
  return async (linesNow, isOver) => {
    while (linesNow() < line && !isOver()) await new Promise(setImmediate);
  };
}

const afterAWhile: Strike = () => {
  return new Promise((resolve) => setTimeout(resolve, randomInt(LONGEST_MS)));
};

for (const containment of containments) {
  const args = ["--containment", containment];
  const step = containment === "cgroup" ? 1 : 6;
  const lines = Array.from({ length: LINES }, (_, at) => at + 1).filter(
    (line) => line % step === 0,
  );

  scenario(
    `${containment}: a crash at line 1 to ${LINES} of the script loses nobody, invents nothing`,
    async (scene) => {
      const stage = { scene, cage: openCage(scene), args };
      const known = await playRounds(stage, 1, lines.map(atLine));
      console.log(`${containment}: ${lines.length} crashes, ${known} processes compared`);
    },
    ROUND_LIMIT_MS * 4,
  );

  scenario(
    `${containment}: crashes at ${RANDOM_ROUNDS} random instants lose nobody`,
    async (scene) => {
      const stage = { scene, cage: openCage(scene), args };
      const strikes = Array.from({ length: RANDOM_ROUNDS }, () => afterAWhile);
      const known = await playRounds(stage, 4, strikes);
      console.log(`${containment}: ${RANDOM_ROUNDS} crashes, ${known} processes compared`);
    },
    ROUND_LIMIT_MS * Math.max(1, RANDOM_ROUNDS),
  );
}

scenario(
  "whatever is written while the daemon dies again and again is all there",
  async (scene) => {
    const count = 40_000;
    const script = `i=0; while [ $i -lt ${count} ]; do echo $i; i=$((i+1)); done`;
    let daemon = await startDaemon(scene);
    const before = await daemon.connect();
    const spawned = Array.from({ length: 20 }, () =>
      before.spawn({ command: ["sh", "-c", script] }),
    );
    const ids = (await Promise.all(spawned)).map(({ id }) => id);
    for (let crashes = 0; crashes < 4; crashes++) {
      await crash(daemon);
      daemon = await startDaemon(scene);
    }
    const client = await daemon.connect();
    const expected = Array.from({ length: count }, (_, at) => `${at}\n`).join("");
    for (const id of ids) {
      const { process } = await client.wait({ id });
      ok(process.exitCode === 0 || process.exit === "unknown");
      const file = join(daemon.state, "output", `${id}.stdout`);
      ok(readFileSync(file, "latin1") === expected, `${id} lacks lines`);
    }
  },
  ROUND_LIMIT_MS,
);
