// The floor under starts: node:child_process in a bare Node process, one after the other without a
// pause. What was started lives on until it is told to end.

import { answerQuestions, killStarted, type Started, start } from "./program.js";

export type Question =
  | { do: "start"; command: readonly string[]; processes: number }
  | { do: "end" };

/** `begunMs`: the first start, on the clock that all processes share. */
export type Answer = { begunMs: number; eachMs: number[] };

const held: Started[] = [];

async function answer(question: Question): Promise<Answer> {
  const begunMs = Number(process.hrtime.bigint()) / 1e6;
  if (question.do === "end") {
    await Promise.all(held.splice(0).map(endNow));
    return { begunMs, eachMs: [] };
  }
  const eachMs: number[] = [];
  for (let made = 0; made < question.processes; made++) {
    const calledMs = performance.now();
    held.push(start(question.command));
    eachMs.push(performance.now() - calledMs);
  }
  return { begunMs, eachMs };
}

async function endNow(started: Started): Promise<void> {
  const { child } = started;
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  killStarted(started);
  await exited;
}

answerQuestions(answer, () => held.forEach(killStarted));
