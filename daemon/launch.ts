// The one way into life: a command becomes a detached leader with files for its output, or a failure
// with stage and errno. It decides nothing about names, limits or what comes after.

import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, resolve } from "node:path";
import type { Signal } from "../client/wire.js";
import type { Leader } from "./containment.js";
import type { OutputFds } from "./output.js";
import type { Exit, Stage } from "./state.js";

export type Command = { command: readonly string[]; cwd: string; env: Record<string, string> };

export type Launch =
  | { ok: true; leader: Leader }
  | { ok: false; stage: Stage; errno: string; message: string };

/**
 * Spawn in a session and group of its own (setsid), stdin from /dev/null. When it resolves with
 * `ok`, exec has happened: libuv waits for it. `ended` is called from the exit callback itself, so
 * it must not signal anybody. On failure nothing runs.
 */
export async function launch(
  command: Command,
  output: OutputFds,
  ended: (exit: Exit) => void,
): Promise<Launch> {
  const [file = "", ...args] = command.command;
  const options: SpawnOptions = {
    cwd: command.cwd,
    env: command.env,
    detached: true,
    stdio: ["ignore", output.stdout, output.stderr],
  };
  try {
    const child = spawn(file, args, options);
    if (child.pid === undefined) throw await new Promise((fail) => child.once("error", fail));
    return { ok: true, leader: leaderOf(child, child.pid, ended) };
  } catch (error) {
    return explain(command, error as NodeJS.ErrnoException);
  }
}

function leaderOf(child: ChildProcess, pid: number, ended: (exit: Exit) => void): Leader {
  let report: () => void;
  const exited = new Promise<void>((resolvePromise) => {
    report = resolvePromise;
  });
  const leader: Leader = { pid, exit: null, exited };
  child.once("exit", (code, signal) => {
    const exit: Exit = signal === null ? { by: "code", code: code ?? 0 } : bySignal(signal);
    leader.exit = exit;
    ended(exit);
    report();
  });
  return leader;
}

function bySignal(signal: Signal): Exit {
  return { by: "signal", signal };
}

/**
 * Name the stage of a failed spawn. Node reports execve, chdir and a missing interpreter alike as
 * ENOENT of the command, so the file system is asked which it was. man 2 execve.
 */
function explain(command: Command, error: NodeJS.ErrnoException): Launch {
  const errno = error.code ?? "EUNKNOWN";
  const [file = ""] = command.command;
  const failed = (stage: Stage, message: string): Launch => ({ ok: false, stage, errno, message });
  switch (errno) {
    case "EAGAIN":
    case "EMFILE":
    case "ENFILE":
    case "ENOMEM":
      return failed("fork", `${errno}: the system has no room for another process`);
    case "E2BIG":
      return failed("exec", "E2BIG: arguments and environment are too long for the kernel");
  }
  if (!isReachableFolder(command.cwd)) {
    return failed("cwd", `${errno}: cannot enter the working directory ${command.cwd}`);
  }
  const found = findProgram(command);
  if (found === null) return failed("command", `${errno}: command not found: ${file}`);
  if (errno === "ENOENT") {
    return failed("interpreter", `ENOENT: the interpreter that ${found} asks for does not exist`);
  }
  if (errno === "EACCES") return failed("command", `EACCES: not an executable file: ${found}`);
  return failed("exec", `${errno}: cannot execute ${found}`);
}

function isReachableFolder(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isDirectory();
  } catch {
    return false; // whatever the reason, the folder cannot be entered, and that is the answer
  }
}

/** The file that execvp would run; one that exists but may not be run counts as found. */
function findProgram({ command, cwd, env }: Command): string | null {
  const [file = ""] = command;
  const path = env["PATH"] ?? "/bin:/usr/bin";
  const folders = file.includes("/") ? [""] : path.split(delimiter);
  for (const folder of folders) {
    const candidate = resolve(cwd, folder, file);
    if (isFile(candidate)) return candidate;
  }
  return null;
}

function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false; // not there, or not ours to see: execvp passes it over just so
  }
}
