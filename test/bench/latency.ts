// The round trip of `spawn` and `terminate` for one plain process, against the same work with
// node:child_process: in one bare Node process, and behind the least daemon, through our own client.
// Rounds of the three alternate.

import { join } from "node:path";
import { type Client, connect } from "../../client/client.js";
import { type Figure, median, quantile } from "./figures.js";
import type { Answer, Question } from "./floor.js";
import type { Question as LeastQuestion } from "./least.js";
import { pause } from "./program.js";
import { type Program, type Stage, sleep, startDaemon, startProgram } from "./scene.js";

/**
 * Between spawn and terminate, and between rounds: the command is past its start, which takes some 7 ms in
 * a cgroup, and the rest is done.
 */
const PAUSE_MS = 15;
/**
 * The daemon lives long: what is measured is its steady state, past the compiler. After 500 it was not there
 * yet (terminate took a sixth longer), from 2,500 on nothing changes.
 */
const WARM_UP_ROUNDS = 2_500;
/** With rests, as what is measured: without, terminate meets a command that is not past its start. */
const SETTLING_ROUNDS = 100;

type Samples = { spawnMs: number[]; terminateMs: number[] };
type Round = (pauseMs: number) => Promise<Answer>;
type Contestants<T> = { ours: T; least: T; bare: T };

export async function measureLatency(stage: Stage, quick: boolean): Promise<Figure[]> {
  const { client } = await startDaemon(stage);
  const least = await startLeast(stage);
  const floor: Program<Question, Answer> = await startProgram(stage, "floor");
  const rounds: Contestants<Round> = {
    ours: (pauseMs) => measureRound(client, pauseMs),
    least: (pauseMs) => measureRound(least, pauseMs),
    bare: (pauseMs) => floor.ask({ do: "round", command: sleep, pauseMs }),
  };
  await alternate(rounds, WARM_UP_ROUNDS, 0);
  await alternate(rounds, SETTLING_ROUNDS, PAUSE_MS);
  const { ours, least: others, bare } = await alternate(rounds, quick ? 100 : 500, PAUSE_MS);
  return (["spawn", "terminate"] as const).flatMap((name): Figure[] => {
    const of = (samples: Samples) => samples[`${name}Ms`];
    const bound = name === "spawn" ? 1.4 : 1.7;
    const middle = { name: `${name}, median`, unit: "ms", value: median(of(ours)) } as const;
    return [
      { ...middle, floor: median(of(bare)), target: { of: "ratio", is: "at most", bound } },
      { ...middle, name: `${middle.name}; floor: the least daemon`, floor: median(of(others)) },
      {
        name: `${name}, p99`,
        unit: "ms",
        value: quantile(of(ours), 0.99),
        floor: quantile(of(bare), 0.99),
      },
    ];
  });
}

async function startLeast(stage: Stage): Promise<Client> {
  const socket = join(stage.folder, "least");
  const program: Program<LeastQuestion, boolean> = await startProgram(stage, "least");
  await program.ask({ socket });
  const client = await connect({ socket });
  stage.after(() => client.close());
  return client;
}

async function alternate(
  { ours, least, bare }: Contestants<Round>,
  rounds: number,
  pauseMs: number,
): Promise<Contestants<Samples>> {
  const samples = () => ({ spawnMs: [], terminateMs: [] });
  const all: Contestants<Samples> = { ours: samples(), least: samples(), bare: samples() };
  const takes = [
    async () => add(all.ours, await ours(pauseMs)),
    async () => add(all.least, await least(pauseMs)),
    async () => add(all.bare, await bare(pauseMs)),
  ];
  for (let round = 0; round < rounds; round++) {
    for (const take of round % 2 === 0 ? takes : takes.toReversed()) {
      await take();
      await pause(pauseMs);
    }
  }
  return all;
}

async function measureRound(client: Client, pauseMs: number): Promise<Answer> {
  const spawnedMs = performance.now();
  const { id } = await client.spawn({ command: [...sleep] });
  const spawnMs = performance.now() - spawnedMs;
  await pause(pauseMs);
  const askedMs = performance.now();
  await client.terminate({ id });
  return { spawnMs, terminateMs: performance.now() - askedMs };
}

function add(samples: Samples, { spawnMs, terminateMs }: Answer): void {
  samples.spawnMs.push(spawnMs);
  samples.terminateMs.push(terminateMs);
}
