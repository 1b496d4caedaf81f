// The benchmark, all of it from one run: what procsup costs beside the least that the same work can
// cost. Figures are no test: whatever they say, it exits 0.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { cpus, loadavg, release, tmpdir } from "node:os";
import { parseArgs } from "node:util";
import { type Figure, table } from "./figures.js";
import type { Answer, Question } from "./floor.js";
import { measureHostile } from "./hostile.js";
import { measureIdle } from "./idle.js";
import { readRssBytes } from "./kernel.js";
import { measureLatency } from "./latency.js";
import { measureMemory } from "./memory.js";
import { measureOutput } from "./output.js";
import { measureScan } from "./scan.js";
import { onStage, type Program, type Stage, sleep, startDaemon, startProgram } from "./scene.js";
import { measureStarts } from "./starts.js";
import { measureStatus } from "./status.js";
import { measureTree } from "./tree.js";

const sections = {
  latency: measureLatency,
  starts: measureStarts,
  tree: measureTree,
  scan: measureScan,
  status: measureStatus,
  hostile: measureHostile,
  memory: measureMemory,
  idle: measureIdle,
  output: measureOutput,
} as const;

type Section = keyof typeof sections;

const usage = `Usage: npm run bench -- [--quick] [${Object.keys(sections).join("] [")}]

  --quick   fewer samples, less idling
  sections  only those; without any, all
`;

type Wanted = { quick: boolean; names: Section[] };

/** What was asked for; null when the usage is all there is to say. */
function readArguments(argv: readonly string[]): Wanted | null {
  const all = Object.keys(sections) as Section[];
  try {
    const { values, positionals } = parseArgs({
      args: [...argv],
      options: { quick: { type: "boolean", default: false }, help: { type: "boolean" } },
      allowPositionals: true,
    });
    const unknown = positionals.filter((name) => !all.some((known) => known === name));
    if (values.help || unknown.length > 0) return null;
    const names = all.filter((name) => positionals.length === 0 || positionals.includes(name));
    return { quick: values.quick, names };
  } catch {
    return null; // an option that there is not
  }
}

async function describeConditions(stage: Stage): Promise<string> {
  const { client } = await startDaemon(stage);
  const { version, containment } = await client.info({});
  const floor: Program<Question, Answer> = await startProgram(stage, "floor");
  await floor.ask({ do: "round", command: sleep, pauseMs: 0 });
  const floorMib = (readRssBytes(floor.pid) / 1024 / 1024).toFixed(1);
  const [cpu] = cpus();
  return [
    `procsup ${version}, containment ${containment}; node ${process.version}`,
    `Linux ${release()}, ${cpus().length} cores (${cpu?.model.trim() ?? "unknown"})`,
    `floor: a bare Node process, RSS ${floorMib} MiB; environment ${environmentBytes()} bytes`,
    `state and output on ${fileSystemOf(stage.folder)}, below ${tmpdir()}; TMPDIR chooses another`,
  ].join("\n");
}

/** Each spawn makes two files and writes to the journal. */
function fileSystemOf(path: string): string {
  return execFileSync("stat", ["--file-system", "--format=%T", path], { encoding: "utf8" }).trim();
}

/** Every spawn carries it, so it is a part of the work. */
function environmentBytes(): number {
  return readFileSync("/proc/self/environ").length;
}

function load(): string {
  return loadavg()
    .map((average) => average.toFixed(2))
    .join(" ");
}

/** A section that breaks is told of and takes no other section with it. */
async function measure(signal: AbortSignal, { quick, names }: Wanted): Promise<void> {
  const loadBefore = load();
  console.log(await onStage(signal, describeConditions));
  const figures: Figure[] = [];
  for (const name of names) {
    if (process.stderr.isTTY) console.error(`... ${name}`);
    try {
      figures.push(...(await onStage(signal, (stage) => sections[name](stage, quick))));
    } catch (error) {
      signal.throwIfAborted();
      console.log(`${name} broke: ${error instanceof Error ? error.stack : String(error)}`);
    }
  }
  console.log(`load average ${loadBefore} before, ${load()} after${quick ? "; --quick" : ""}\n`);
  console.log(table(figures));
}

async function main(): Promise<void> {
  const wanted = readArguments(process.argv.slice(2));
  if (wanted === null) {
    console.log(usage);
    return;
  }
  const interruption = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => interruption.abort(new Error(`interrupted by ${signal}`)));
  }
  try {
    await measure(interruption.signal, wanted);
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error));
  }
  process.exit(0);
}

await main();
