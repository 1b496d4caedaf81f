// The floor under output: a command's stdout in a plain file, opened and left alone, and the way that
// supervisors usually take, through a pipe that Node reads and writes to a file.

import { spawn } from "node:child_process";
import { closeSync, createWriteStream, openSync, unlinkSync } from "node:fs";
import { finished, pipeline } from "node:stream/promises";
import { answerQuestions } from "./program.js";

/** Run `command` until it has ended and all it wrote is at `path`, which is removed then. */
export type Question = { through: "file" | "pipe"; command: readonly string[]; path: string };

/** `cpuMs`: of this process, without the command. */
export type Answer = { elapsedMs: number; cpuMs: number };

async function run({ through, command, path }: Question): Promise<Answer> {
  const cpuBefore = process.cpuUsage();
  const beganMs = performance.now();
  if (through === "file") await intoFile(command, path);
  else await throughPipe(command, path);
  const elapsedMs = performance.now() - beganMs;
  const { user, system } = process.cpuUsage(cpuBefore);
  unlinkSync(path);
  return { elapsedMs, cpuMs: (user + system) / 1000 };
}

async function intoFile([file = "", ...args]: readonly string[], path: string): Promise<void> {
  const fd = openSync(path, "ax");
  const child = spawn(file, args, { stdio: ["ignore", fd, "inherit"] });
  closeSync(fd);
  await new Promise<void>((ended, fail) => {
    child.once("error", fail);
    child.once("exit", () => ended());
  });
}

async function throughPipe([file = "", ...args]: readonly string[], path: string): Promise<void> {
  const child = spawn(file, args, { stdio: ["ignore", "pipe", "inherit"] });
  const sink = createWriteStream(path, { flags: "ax" });
  await pipeline(child.stdout, sink);
  await finished(sink);
}

answerQuestions(run);
