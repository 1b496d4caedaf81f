// The end of a tree of 100 members by `terminate` with force, against cgroup.kill alone on an equal tree
// in a cgroup of our own: one KILL on either side. What the ladder's first rung costs is in latency.ts.

import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { noCgroup, openCgroup } from "../cage.js";
import { until } from "../scenario.js";
import { type Figure, median, quantile } from "./figures.js";
import type { Answer, Question } from "./killer.js";
import { pause } from "./program.js";
import { type Daemon, type Program, type Stage, startDaemon, startProgram } from "./scene.js";

type Killer = Program<Question, Answer>;

const MEMBERS = 100;
const program = resolve(import.meta.dirname, "../../../test/programs/wide-tree.sh");
const command = ["/bin/sh", program, String(MEMBERS - 1)];
const WARM_UP_ROUNDS = 10;
/** All have become their program; now they are past its start as well. */
const SETTLE_MS = 100;

/** No figure where no cgroup can be made: there the floor cannot be had. */
export async function measureTree(stage: Stage, quick: boolean): Promise<Figure[]> {
  if (noCgroup !== null) {
    console.log(`tree: not measured, ${noCgroup}`);
    return [];
  }
  const rounds = quick ? 10 : 60;
  const daemon = await startDaemon(stage, ["--containment", "cgroup"]);
  const cage = openCgroup(stage);
  const killer: Killer = await startProgram(stage, "killer");
  const ours: number[] = [];
  const bare: number[] = [];
  for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
    const own = await terminateTree(daemon);
    const alone = await killTree(killer, cage);
    if (round < 0) continue;
    ours.push(own);
    bare.push(alone);
  }
  const name = `end of ${MEMBERS} members; floor: cgroup.kill`;
  return [
    {
      name: `${name}, median`,
      unit: "ms",
      value: median(ours),
      floor: median(bare),
      target: { of: "ratio", is: "at most", bound: 1.3 },
    },
    {
      name: `${name}, p99`,
      unit: "ms",
      value: quantile(ours, 0.99),
      floor: quantile(bare, 0.99),
    },
  ];
}

async function terminateTree({ client }: Daemon): Promise<number> {
  const { id } = await client.spawn({ command });
  await untilStanding(async () => (await client.status({ id })).members.map(({ pid }) => pid));
  const askedMs = performance.now();
  await client.terminate({ id, force: true });
  return performance.now() - askedMs;
}

async function killTree(
  killer: Killer,
  { folder, prefix, pids }: ReturnType<typeof openCgroup>,
): Promise<number> {
  await killer.ask({ do: "start", command: [...prefix, ...command] });
  await untilStanding(async () => pids());
  return (await killer.ask({ do: "kill", folder })).tookMs;
}

async function untilStanding(members: () => Promise<number[]>): Promise<void> {
  await until("the tree stands", async () => {
    const pids = await members();
    return pids.length === MEMBERS && pids.filter(isSleep).length === MEMBERS - 1;
  });
  await pause(SETTLE_MS);
}

/** man 5 proc_pid_comm: it is set by exec. */
function isSleep(pid: number): boolean {
  return readFileSync(`/proc/${pid}/comm`, "utf8") === "sleep\n";
}
