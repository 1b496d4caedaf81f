// What a well-behaved client notices of hostile ones: the latency of its `status` beside a flood of
// inputs over both doors, against the same daemon left alone.

import { type Figure, quantile } from "./figures.js";
import type { Answer, Question } from "./flood.js";
import { pause } from "./program.js";
import { type Program, type Stage, sleep, startDaemon, startProgram } from "./scene.js";

const PAUSE_MS = 1;

export async function measureHostile(stage: Stage, quick: boolean): Promise<Figure[]> {
  const calls = quick ? 500 : 3_000;
  const { client, socket } = await startDaemon(stage);
  const { id } = await client.spawn({ command: [...sleep] });
  const sample = async () => {
    const samples: number[] = [];
    for (let call = 0; call < calls; call++) {
      const beganMs = performance.now();
      await client.status({ id });
      samples.push(performance.now() - beganMs);
      await pause(PAUSE_MS);
    }
    return samples;
  };
  const flood: Program<Question, Answer> = await startProgram(stage, "flood");
  await sample(); // warm-up
  const alone = await sample();
  await flood.ask({ socket, seed: 1, connections: 4 });
  const beside = await sample();
  const { inputs } = await flood.ask("stop");
  const figures = [0.5, 0.99].map((share): Figure => {
    const name = `status beside a flood, ${share === 0.5 ? "median" : "p99"}`;
    return { name, unit: "ms", value: quantile(beside, share), floor: quantile(alone, share) };
  });
  const p99 = figures[1];
  if (p99 !== undefined) p99.target = { of: "ratio", is: "at most", bound: 2 };
  const elapsedMs = beside.reduce((sum, ms) => sum + ms, 0) + calls * PAUSE_MS;
  return [
    ...figures,
    { name: "the flood", unit: "perSecond", value: (1000 * inputs) / elapsedMs, floor: null },
  ];
}
