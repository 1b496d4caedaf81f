// What the daemon costs while nobody asks anything: CPU time and wake-ups, with no process and with
// 100, beside bare Node processes that hold as many children. All four are idle side by side.

import type { Figure } from "./figures.js";
import type { Answer, Question } from "./floor.js";
import { readActivity } from "./kernel.js";
import { pause } from "./program.js";
import {
  type Program,
  type Stage,
  sleep,
  spawnSleeps,
  startDaemon,
  startProgram,
} from "./scene.js";

/** V8 looks once more for garbage, up to half a minute after the last work; that is not yet idle. */
const SETTLE_MS = 35_000;

export async function measureIdle(stage: Stage, quick: boolean): Promise<Figure[]> {
  const idleMs = quick ? 5_000 : 20_000;
  const pairs: { processes: number; daemonPid: number; floorPid: number }[] = [];
  for (const processes of [0, 100]) {
    const daemon = await startDaemon(stage);
    await spawnSleeps(daemon, processes);
    const floor: Program<Question, Answer> = await startProgram(stage, "floor");
    await floor.ask({ do: "hold", command: sleep, processes });
    pairs.push({ processes, daemonPid: daemon.pid, floorPid: floor.pid });
  }
  await pause(SETTLE_MS);
  const pids = pairs.flatMap(({ daemonPid, floorPid }) => [daemonPid, floorPid]);
  const before = new Map(pids.map((pid) => [pid, readActivity(pid)]));
  await pause(idleMs);
  const during = (pid: number) => {
    const from = before.get(pid) ?? { cpuMs: 0, wakeUps: 0 };
    const to = readActivity(pid);
    return { cpuMs: to.cpuMs - from.cpuMs, wakeUps: to.wakeUps - from.wakeUps };
  };
  return pairs.flatMap(({ processes, daemonPid, floorPid }): Figure[] => {
    const ours = during(daemonPid);
    const bare = during(floorPid);
    const when = `in ${idleMs / 1000} idle s, ${processes} processes`;
    return [
      { name: `CPU ${when}`, unit: "ms", value: ours.cpuMs, floor: bare.cpuMs },
      {
        name: `wake-ups ${when}`,
        unit: "count",
        value: ours.wakeUps,
        floor: bare.wakeUps,
        target: { of: "value", is: "at most", bound: 0 },
      },
    ];
  });
}
