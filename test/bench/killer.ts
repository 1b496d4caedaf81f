// The floor under the end of a tree: one write to cgroup.kill from a bare Node process, and the proof
// that nobody is left. It hears of its child's exit and then looks until the cgroup is empty, as soon
// as the event loop comes round: the kernel's own notice may be 10 ms late.

import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import { answerQuestions, killStarted, type Started, start } from "./program.js";

/** Start a tree by a command that enters the cgroup at `folder`; kill all that is in it. */
export type Question = { do: "start"; command: readonly string[] } | { do: "kill"; folder: string };

/** Of a kill: until `populated 0` was read and the leader was reaped. */
export type Answer = { tookMs: number };

const scratch = Buffer.alloc(256);
let tree: Started | null = null;

async function answer(question: Question): Promise<Answer> {
  if (question.do === "start") {
    tree = start(question.command);
    return { tookMs: 0 };
  }
  return { tookMs: await kill(question.folder) };
}

async function kill(folder: string): Promise<number> {
  const events = openSync(join(folder, "cgroup.events"), "r");
  const killFile = openSync(join(folder, "cgroup.kill"), "w");
  const exited = new Promise((resolve) => tree?.child.once("exit", resolve));
  const begunMs = performance.now();
  writeSync(killFile, "1");
  await exited;
  while (isPopulated(events)) await new Promise((resolve) => setImmediate(resolve));
  const tookMs = performance.now() - begunMs;
  for (const fd of [events, killFile]) closeSync(fd);
  return tookMs;
}

function isPopulated(events: number): boolean {
  return scratch
    .toString("latin1", 0, readSync(events, scratch, 0, scratch.length, 0))
    .includes("populated 1");
}

answerQuestions(answer, () => {
  if (tree !== null) killStarted(tree);
});
