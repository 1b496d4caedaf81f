// A command that writes as fast as it can: the speed it keeps, what that costs the daemon, and what others
// notice of it. Beside it the same into a plain file, and through a pipe that Node reads.

import { join } from "node:path";
import { type Figure, median, quantile } from "./figures.js";
import { readActivity } from "./kernel.js";
import { pause } from "./program.js";
import {
  type Daemon,
  type Program,
  type Stage,
  sleep,
  startDaemon,
  startProgram,
} from "./scene.js";
import type { Answer, Question } from "./writer.js";

const WRITTEN_MIB = 1024;
const command = [
  "dd",
  "if=/dev/zero",
  "bs=64K",
  `count=${(WRITTEN_MIB * 1024) / 64}`,
  "status=none",
];
/** Between two calls of `status`. */
const PAUSE_MS = 2;

export async function measureOutput(stage: Stage, quick: boolean): Promise<Figure[]> {
  const rounds = quick ? 3 : 9;
  const daemon = await startDaemon(stage);
  const writer: Program<Question, Answer> = await startProgram(stage, "writer");
  const path = join(stage.folder, "plain");
  const ours: Answer[] = [];
  const file: Answer[] = [];
  const pipe: Answer[] = [];
  for (let round = -1; round < rounds; round++) {
    const [own, plain, piped] = [
      await writeUnder(daemon),
      await writer.ask({ through: "file", command, path }),
      await writer.ask({ through: "pipe", command, path }),
    ];
    if (round < 0) continue; // warm-up
    ours.push(own);
    file.push(plain);
    pipe.push(piped);
  }
  const speed = (answers: Answer[]) =>
    WRITTEN_MIB / (median(answers.map((one) => one.elapsedMs)) / 1000);
  const cpuMs = (answers: Answer[]) => median(answers.map((one) => one.cpuMs));
  const unit = "mibPerSecond";
  return [
    {
      name: "1 GiB of output; floor: plain file",
      unit,
      value: speed(ours),
      floor: speed(file),
      target: { of: "ratio", is: "at least", bound: 0.95 },
    },
    { name: "1 GiB of output; floor: pipe", unit, value: speed(ours), floor: speed(pipe) },
    { name: "CPU meanwhile; floor: pipe", unit: "ms", value: cpuMs(ours), floor: cpuMs(pipe) },
    ...(await measureOthers(daemon, rounds)),
  ];
}

/** What the daemon spends on it, the spawn and the end included. */
async function writeUnder({ client, pid }: Daemon): Promise<Answer> {
  const before = readActivity(pid);
  const beganMs = performance.now();
  const { id } = await client.spawn({ command });
  await client.wait({ id });
  const elapsedMs = performance.now() - beganMs;
  return { elapsedMs, cpuMs: readActivity(pid).cpuMs - before.cpuMs };
}

/** The round trip of `status` while a command writes, and while none does. */
async function measureOthers(daemon: Daemon, rounds: number): Promise<Figure[]> {
  const { client } = daemon;
  const { id } = await client.spawn({ command: [...sleep] });
  const during: number[] = [];
  const before: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const quietMs = performance.now() + 500;
    while (performance.now() < quietMs) before.push(await askStatus(daemon, id));
    let isWriting = true;
    const written = writeUnder(daemon).then(() => {
      isWriting = false;
    });
    while (isWriting) during.push(await askStatus(daemon, id));
    await written;
  }
  return (
    [
      ["median", 0.5],
      ["p99", 0.99],
    ] as const
  ).map(([name, share]): Figure => {
    const value = quantile(during, share);
    const floor = quantile(before, share);
    return { name: `status meanwhile, ${name}; floor: at rest`, unit: "ms", value, floor };
  });
}

async function askStatus({ client }: Daemon, id: string): Promise<number> {
  await pause(PAUSE_MS);
  const askedMs = performance.now();
  await client.status({ id });
  return performance.now() - askedMs;
}
