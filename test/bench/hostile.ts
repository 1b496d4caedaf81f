// What a well-behaved client notices of others: the latency of its `status` beside a flood of hostile
// inputs over both doors, and beside many that ask for something long without pause.

import { join } from "node:path";
import { type Figure, quantile } from "./figures.js";
import type { Answer as Flooded, Question as FloodQuestion } from "./flood.js";
import type { Answer as Loaded, Question as LoadQuestion } from "./load.js";
import { pause } from "./program.js";
import {
  type Daemon,
  type Program,
  type Stage,
  sleep,
  spawnSleeps,
  startDaemon,
  startProgram,
} from "./scene.js";
import type { Question as SinkQuestion } from "./sink.js";

const PAUSE_MS = 1;
const PROCESSES = 1_000;
const CROWD = 20;
/** What the crowd asks for: what takes longest, at that many processes. */
const long = { list: {}, info: {}, spawn: { command: ["true"], output: "null" } };

type Sample = (calls: number) => Promise<number[]>;

export async function measureHostile(stage: Stage, quick: boolean): Promise<Figure[]> {
  const calls = quick ? 500 : 3_000;
  const daemon = await startDaemon(stage);
  const { id } = await daemon.client.spawn({ command: [...sleep] });
  const sample: Sample = async (count) => {
    const samples: number[] = [];
    for (let call = 0; call < count; call++) {
      const beganMs = performance.now();
      await daemon.client.status({ id });
      samples.push(performance.now() - beganMs);
      await pause(PAUSE_MS);
    }
    return samples;
  };
  await sample(calls); // warm-up
  const alone = await sample(calls);
  return [
    ...(await measureFlood(stage, daemon, { sample, calls, alone })),
    ...(await measureCrowds(stage, daemon, { sample, calls, alone })),
  ];
}

type Measuring = { sample: Sample; calls: number; alone: number[] };

/** The flood is a busy program too, and takes a core: so it is sent elsewhere as well. */
async function measureFlood(
  stage: Stage,
  { socket }: Daemon,
  { sample, calls, alone }: Measuring,
): Promise<Figure[]> {
  const beside = async (path: string) => {
    const flood: Program<FloodQuestion, Flooded> = await startProgram(stage, "flood");
    await flood.ask({ socket: path, seed: 1, connections: 4 });
    const beganMs = performance.now();
    await sample(calls / 2); // the burst that is put up with, and the compiler
    const samples = await sample(calls);
    const { inputs } = await flood.ask("stop");
    return { samples, inputsPerSecond: (1_000 * inputs) / (performance.now() - beganMs) };
  };
  const sink: Program<SinkQuestion, boolean> = await startProgram(stage, "sink");
  const sinkSocket = join(stage.folder, "sink");
  await sink.ask({ socket: sinkSocket });
  const elsewhere = await beside(sinkSocket);
  const { samples, inputsPerSecond } = await beside(socket);
  const p99 = { unit: "ms", value: quantile(samples, 0.99) } as const;
  return [
    {
      name: "status beside a flood, median",
      unit: "ms",
      value: quantile(samples, 0.5),
      floor: quantile(alone, 0.5),
    },
    {
      name: "status beside a flood, p99",
      ...p99,
      floor: quantile(alone, 0.99),
      target: { of: "ratio", is: "at most", bound: 2 },
    },
    {
      name: "status beside a flood, p99; floor: the flood elsewhere",
      ...p99,
      floor: quantile(elsewhere.samples, 0.99),
    },
    {
      name: "the flood; floor: elsewhere",
      unit: "perSecond",
      value: inputsPerSecond,
      floor: elsewhere.inputsPerSecond,
    },
  ];
}

async function measureCrowds(
  stage: Stage,
  daemon: Daemon,
  { sample, calls, alone }: Measuring,
): Promise<Figure[]> {
  await spawnSleeps(daemon, PROCESSES);
  const load: Program<LoadQuestion, Loaded> = await startProgram(stage, "load");
  const figures: Figure[] = [];
  for (const [method, params] of Object.entries(long)) {
    const request = `${JSON.stringify({ jsonrpc: "2.0", id: 1, method, params })}\n`;
    const question = { socket: daemon.socket, request, connections: CROWD };
    await load.ask({ ...question, durationMs: 0 }); // they connect
    const crowd = load.ask({ ...question, durationMs: 2 * calls * PAUSE_MS });
    const beside = await sample(calls / 2);
    await crowd;
    figures.push({
      name: `status beside ${CROWD} that ${method === "info" ? "ask for info" : method}, p99`,
      unit: "ms",
      value: quantile(beside, 0.99),
      floor: quantile(alone, 0.99),
    });
  }
  return figures;
}
