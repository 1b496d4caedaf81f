// What others notice while the daemon, without cgroups, looks at every process of a machine that has
// 3,000 more. Its event loop cannot be watched from outside: what is measured is the round trip of a
// call that asks the kernel nothing, back to back on a connection of its own, while another connection
// has strays listed or a process ended. The longest, beyond the longest at rest, bounds from above how
// long the loop was held at a time.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { connect } from "../../client/client.js";
import { until } from "../scenario.js";
import { type Figure, quantile } from "./figures.js";
import { pause } from "./program.js";
import { type Daemon, type Stage, sleep, startDaemon } from "./scene.js";

const PROCESSES = 3_000;
const crowd = `for one in $(seq ${PROCESSES}); do sleep 1000 & done; echo; wait`;
const CROWD_LIMIT_MS = 120_000;
const WARM_UP_ROUNDS = 3;

type Samples = { atRest: number[]; ending: number[]; listing: number[] };

export async function measureScan(stage: Stage, quick: boolean): Promise<Figure[]> {
  const rounds = quick ? 5 : 30;
  const daemon = await startDaemon(stage, ["--containment", "group"]);
  const askCheaply = await cheapCall(stage, daemon);
  await standCrowd(stage);
  const samples: Samples = { atRest: [], ending: [], listing: [] };
  for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
    const { client } = daemon;
    const { id } = await client.spawn({ command: [...sleep] });
    const listing = await during(client.strays({}), askCheaply);
    const ending = await during(client.terminate({ id, force: true }), askCheaply);
    const restMs = [...listing, ...ending].reduce((sum, ms) => sum + ms, 0);
    const atRest = await during(pause(restMs), askCheaply);
    if (round < 0) continue;
    samples.listing.push(...listing);
    samples.ending.push(...ending);
    samples.atRest.push(...atRest);
  }
  return [
    ...figures("strays", samples.listing, samples),
    ...figures("end", samples.ending, samples),
  ];
}

function figures(what: string, busy: readonly number[], { atRest }: Samples): Figure[] {
  const shares = [
    ["median", 0.5],
    ["p99", 0.99],
    ["longest", 1],
  ] as const;
  return shares.map(([name, share]): Figure => {
    const figure: Figure = {
      name: `a call beside a scan of ${PROCESSES} (${what}), ${name}; floor: at rest`,
      unit: "ms",
      value: quantile(busy, share),
      floor: quantile(atRest, share),
    };
    if (share === 1) figure.target = { of: "difference", is: "at most", bound: 5 };
    return figure;
  });
}

/** The round trip of `status` of a process that has ended: no member to ask the kernel for. */
async function cheapCall(
  { after }: Stage,
  { client, socket }: Daemon,
): Promise<() => Promise<number>> {
  const { id } = await client.spawn({ command: ["true"] });
  await client.wait({ id });
  const other = await connect({ socket });
  after(() => other.close());
  return async () => {
    const askedMs = performance.now();
    await other.status({ id });
    return performance.now() - askedMs;
  };
}

/** One sample after the other until `work` is done. */
async function during(work: Promise<unknown>, sample: () => Promise<number>): Promise<number[]> {
  let isOver = false;
  const over = work.finally(() => {
    isOver = true;
  });
  const samples: number[] = [];
  while (!isOver) samples.push(await sample());
  await over;
  return samples;
}

/** They bear the folder's path, so that the sweep finds them even when this process is killed. */
async function standCrowd({ folder, after }: Stage): Promise<void> {
  const env = { PATH: process.env["PATH"] ?? "", PROCSUP_BENCH: folder };
  const shell = spawn("/bin/sh", ["-c", crowd], {
    detached: true,
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const { pid } = shell;
  if (pid === undefined) throw new Error("cannot start the crowd");
  after(() => void process.kill(-pid, "SIGKILL"));
  await new Promise((resolve) => shell.stdout.once("data", resolve));
  const children = `/proc/${pid}/task/${pid}/children`;
  const last = () => Number(readFileSync(children, "utf8").trim().split(" ").at(-1));
  await until(
    "the crowd stands",
    () => readFileSync(`/proc/${last()}/comm`, "utf8") === "sleep\n",
    CROWD_LIMIT_MS,
  );
}
