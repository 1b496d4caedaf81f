// What a start costs: the call in a tight loop, where joining a cgroup is cheap, and the way to the
// command's first word half a second after the last start, where it is not: by then the kernel has to
// wait for all its readers again (cgroup_threadgroup_rwsem).

import { execFileSync } from "node:child_process";
import { constants, openSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { type Figure, median, quantile } from "./figures.js";
import { pause } from "./program.js";
import {
  type Daemon,
  type Program,
  type Stage,
  sleep,
  startDaemon,
  startProgram,
} from "./scene.js";
import type { Answer, Question } from "./starter.js";

type Floor = Program<Question, Answer>;

/** In one loop; they are ended before the next. */
const BATCH = 50;
/** The daemon is past the compiler then, as in latency.ts. */
const WARM_UP_BATCHES = 50;
const APART_MS = 500;

export async function measureStarts(stage: Stage, quick: boolean): Promise<Figure[]> {
  const daemon = await startDaemon(stage);
  const grouped = await startDaemon(stage, ["--containment", "group"]);
  const floor: Floor = await startProgram(stage, "starter");
  return [
    ...(await measureLoop(daemon, floor, quick ? 4 : 20)),
    ...(await measureApart(stage, { daemon, grouped, floor }, quick ? 8 : 30)),
  ];
}

async function measureLoop(daemon: Daemon, floor: Floor, batches: number): Promise<Figure[]> {
  const ours: number[] = [];
  const bare: number[] = [];
  for (let batch = -WARM_UP_BATCHES; batch < batches; batch++) {
    const own = await spawnBatch(daemon);
    const { eachMs } = await floor.ask({ do: "start", command: sleep, processes: BATCH });
    await floor.ask({ do: "end" });
    if (batch < 0) continue;
    ours.push(...own);
    bare.push(...eachMs);
  }
  const unit = "ms";
  return [
    {
      name: "spawn in a tight loop, median",
      unit,
      value: median(ours),
      floor: median(bare),
      target: { of: "difference", is: "at most", bound: 1 },
    },
    {
      name: "spawn in a tight loop, p99",
      unit,
      value: quantile(ours, 0.99),
      floor: quantile(bare, 0.99),
    },
  ];
}

/** How long each call took; all are ended again when it resolves. */
async function spawnBatch({ client }: Daemon): Promise<number[]> {
  const eachMs: number[] = [];
  const ids: string[] = [];
  for (let made = 0; made < BATCH; made++) {
    const calledMs = performance.now();
    const { id } = await client.spawn({ command: [...sleep] });
    eachMs.push(performance.now() - calledMs);
    ids.push(id);
  }
  await Promise.all(ids.map((id) => client.terminate({ id, force: true })));
  return eachMs;
}

type Sides = { daemon: Daemon; grouped: Daemon; floor: Floor };

async function measureApart(stage: Stage, sides: Sides, rounds: number): Promise<Figure[]> {
  const words = listenForWords(stage);
  const command = ["/bin/sh", "-c", 'echo up >"$0"; exec sleep 1000', words.path];
  const under = ({ client }: Daemon) => {
    return async () => {
      const begunMs = nowMs();
      const heard = words.next();
      const { id } = await client.spawn({ command });
      const tookMs = (await heard) - begunMs;
      await client.terminate({ id, force: true });
      return tookMs;
    };
  };
  const bare = async () => {
    const heard = words.next();
    const { begunMs } = await sides.floor.ask({ do: "start", command, processes: 1 });
    const tookMs = (await heard) - begunMs;
    await sides.floor.ask({ do: "end" });
    return tookMs;
  };
  const [ours, grouped, floor] = await inTurns(
    [under(sides.daemon), under(sides.grouped), bare],
    rounds,
  );
  const { containment } = await sides.daemon.client.info({});
  const name = (kind: string) => `spawn to first word, 0.5 s apart, ${kind}`;
  return [
    { name: name(containment), unit: "ms", value: median(ours), floor: median(floor) },
    { name: name("group"), unit: "ms", value: median(grouped), floor: median(floor) },
  ];
}

/** Samples of each, each half a second after the one before. */
async function inTurns<const T extends readonly (() => Promise<number>)[]>(
  measures: T,
  rounds: number,
): Promise<{ [K in keyof T]: number[] }> {
  const samples = measures.map((): number[] => []);
  for (let round = -1; round < rounds; round++) {
    for (const [index, measure] of measures.entries()) {
      await pause(APART_MS);
      const tookMs = await measure();
      if (round >= 0) samples[index]?.push(tookMs); // the first is a warm-up
    }
  }
  return samples as { [K in keyof T]: number[] };
}

/** On the clock that all processes share: man 2 clock_gettime, CLOCK_MONOTONIC. */
function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** A FIFO that commands write to; `next` resolves with the time of the next word. */
function listenForWords({ folder, after }: Stage): { path: string; next(): Promise<number> } {
  const path = join(folder, "words");
  execFileSync("mkfifo", [path]);
  // Open for writing too: so it does not end with each writer. man 7 fifo.
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  const words = new net.Socket({ fd, readable: true, writable: false });
  after(() => void words.destroy());
  return {
    path,
    next: () => new Promise((resolve) => words.once("data", () => resolve(nowMs()))),
  };
}
