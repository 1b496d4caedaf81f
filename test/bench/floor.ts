// The floor under spawn and terminate: what they cost with node:child_process alone, inside one bare
// Node process, with no daemon, no socket and no promise of any kind.

import { answerQuestions, killStarted, pause, type Started, start } from "./program.js";

/** One round of spawn and terminate, or so many processes more that stay until the end. */
export type Question =
  | { do: "round"; command: readonly string[]; pauseMs: number }
  | { do: "hold"; command: readonly string[]; processes: number };

export type Answer = { spawnMs: number; terminateMs: number };

const held: Started[] = [];

async function measureRound(command: readonly string[], pauseMs: number): Promise<Answer> {
  const spawnedMs = performance.now();
  const { child, pid } = start(command);
  const spawnMs = performance.now() - spawnedMs;
  await pause(pauseMs);
  const askedMs = performance.now();
  const exited = new Promise<number>((resolve) => {
    child.once("exit", () => resolve(performance.now()));
  });
  process.kill(-pid, "SIGTERM");
  return { spawnMs, terminateMs: (await exited) - askedMs };
}

async function answer(question: Question): Promise<Answer> {
  if (question.do === "round") return measureRound(question.command, question.pauseMs);
  for (let made = 0; made < question.processes; made++) held.push(start(question.command));
  return { spawnMs: 0, terminateMs: 0 };
}

answerQuestions(answer, () => held.forEach(killStarted));
