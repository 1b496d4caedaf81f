// Resident memory of the daemon with 0, 100 and 1,000 living processes, beside a bare Node process
// that holds as many children.

import type { Figure } from "./figures.js";
import type { Answer, Question } from "./floor.js";
import { readRssBytes } from "./kernel.js";
import { pause } from "./program.js";
import {
  type Program,
  type Stage,
  sleep,
  spawnSleeps,
  startDaemon,
  startProgram,
} from "./scene.js";

const KIB = 1024;
const MIB = 1024 * 1024;
/** After the last spawn, before memory is read. */
const SETTLE_MS = 2_000;

const RSS_TARGET_BYTES = 70e6;
const SLOPE_TARGET_BYTES = 30e3;

export async function measureMemory(stage: Stage): Promise<Figure[]> {
  const daemon = await startDaemon(stage);
  const floor: Program<Question, Answer> = await startProgram(stage, "floor");
  await floor.ask({ do: "hold", command: sleep, processes: 0 });
  const measured: { processes: number; rssBytes: number; floorBytes: number }[] = [];
  let living = 0;
  for (const processes of [0, 100, 1_000]) {
    await spawnSleeps(daemon, processes - living);
    await floor.ask({ do: "hold", command: sleep, processes: processes - living });
    living = processes;
    await pause(SETTLE_MS);
    const rssBytes = readRssBytes(daemon.pid);
    measured.push({ processes, rssBytes, floorBytes: readRssBytes(floor.pid) });
  }
  const figures = measured.map(({ processes, rssBytes, floorBytes }): Figure => {
    const name = `RSS with ${processes.toLocaleString("en")} processes`;
    return { name, unit: "mib", value: rssBytes / MIB, floor: floorBytes / MIB };
  });
  const [none, some, many] = measured;
  if (figures[0] === undefined || none === undefined) return figures;
  if (some === undefined || many === undefined) return figures;
  figures[0].target = { of: "value", is: "at most", bound: RSS_TARGET_BYTES / MIB };
  const perProcess = (of: "rssBytes" | "floorBytes") =>
    (many[of] - some[of]) / (many.processes - some.processes) / KIB;
  figures.push({
    name: "RSS per process, 100 to 1,000",
    unit: "kib",
    value: perProcess("rssBytes"),
    floor: perProcess("floorBytes"),
    target: { of: "value", is: "at most", bound: SLOPE_TARGET_BYTES / KIB },
  });
  return figures;
}
