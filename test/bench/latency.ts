// The round trip of `spawn` and `terminate` for one plain process, against the same work with
// node:child_process in one bare Node process. Rounds of the two alternate.

import { type Figure, median, quantile } from "./figures.js";
import type { Answer, Question } from "./floor.js";
import { pause } from "./program.js";
import {
  type Daemon,
  type Program,
  type Stage,
  sleep,
  startDaemon,
  startProgram,
} from "./scene.js";

/**
 * Between spawn and terminate, and between rounds: the command is past its start, which takes some 7 ms in
 * a cgroup, and the rest is done.
 */
const PAUSE_MS = 15;
/** The daemon lives long: what is measured is its steady state, past the compiler. */
const WARM_UP_ROUNDS = 500;

type Floor = Program<Question, Answer>;
type Samples = { spawnMs: number[]; terminateMs: number[] };

export async function measureLatency(stage: Stage, quick: boolean): Promise<Figure[]> {
  const rounds = quick ? 100 : 500;
  const daemon = await startDaemon(stage);
  const floor: Floor = await startProgram(stage, "floor");
  await alternate(daemon, floor, WARM_UP_ROUNDS);
  const { ours, bare } = await alternate(daemon, floor, rounds);
  return (["spawn", "terminate"] as const).flatMap((name): Figure[] => {
    const of = (samples: Samples) => samples[`${name}Ms`];
    const bound = name === "spawn" ? 1.4 : 1.7;
    return [
      {
        name: `${name}, median`,
        unit: "ms",
        value: median(of(ours)),
        floor: median(of(bare)),
        target: { of: "ratio", is: "at most", bound },
      },
      {
        name: `${name}, p99`,
        unit: "ms",
        value: quantile(of(ours), 0.99),
        floor: quantile(of(bare), 0.99),
      },
    ];
  });
}

async function alternate(
  daemon: Daemon,
  floor: Floor,
  rounds: number,
): Promise<{ ours: Samples; bare: Samples }> {
  const ours: Samples = { spawnMs: [], terminateMs: [] };
  const bare: Samples = { spawnMs: [], terminateMs: [] };
  const takeOurs = async () => add(ours, await measureRound(daemon));
  const takeBare = async () => {
    add(bare, await floor.ask({ do: "round", command: sleep, pauseMs: PAUSE_MS }));
  };
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 === 0 ? [takeOurs, takeBare] : [takeBare, takeOurs];
    for (const take of order) {
      await take();
      await pause(PAUSE_MS);
    }
  }
  return { ours, bare };
}

async function measureRound({ client }: Daemon): Promise<Answer> {
  const spawnedMs = performance.now();
  const { id } = await client.spawn({ command: [...sleep] });
  const spawnMs = performance.now() - spawnedMs;
  await pause(PAUSE_MS);
  const askedMs = performance.now();
  await client.terminate({ id });
  return { spawnMs, terminateMs: performance.now() - askedMs };
}

function add(samples: Samples, { spawnMs, terminateMs }: Answer): void {
  samples.spawnMs.push(spawnMs);
  samples.terminateMs.push(terminateMs);
}
