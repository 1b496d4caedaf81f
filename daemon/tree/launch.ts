// The one way into life: a command becomes a detached leader with files for its output, or a failure
// with stage and errno. It decides nothing about names, limits or what comes after.

import { closeSync, constants, openSync, readSync, statSync } from "node:fs";
import { delimiter } from "node:path";
import { type Image, posixSpawn } from "../kernel/native.js";
import { type Account, asUser, whyNotExecute } from "../kernel/users.js";
import type { Stage } from "../life/state.js";
import type { OutputFds } from "../output/output.js";
import type { Leader, Place } from "./containment.js";
import { becomeUser } from "./gate.js";
import { holdChild } from "./leader.js";
import { withTag } from "./tag.js";

/** `account` is null for the daemon's own user. */
export type Command = {
  command: readonly string[];
  cwd: string;
  env: ReadonlyMap<string, string>;
  account: Account | null;
};

export type Failure = { ok: false; stage: Stage; errno: string; message: string };
export type Launch = { ok: true; leader: Leader } | Failure;

/** A command, and the file that is to be executed for it: a path that may be relative to its folder. */
export type Program = { ok: true; command: Command; path: string };

/** Stdin of every process, and its output where none is kept. */
const nowhere = openSync("/dev/null", "r+");

/** The program of `command`, looked for as whoever is to run it: before anything is made for it. */
export function findProgram(command: Command): Program | Failure {
  try {
    return asUser(command.account, () => lookAt(command));
  } catch (error) {
    // A root who may not change groups, in a namespace of a user's.
    const { code: errno = "EUNKNOWN" } = error as NodeJS.ErrnoException;
    return noRoom(errno) ?? failed("exec", errno, "cannot look at it as its user");
  }
}

/**
 * Start a program inside `place`, as the leader of a session and group of its own, bearing `tag` unless
 * that is null. When it returns `ok`, exec has happened. On failure nothing runs.
 */
export function launch(
  program: Program,
  output: OutputFds,
  place: Place,
  tag: bigint | null,
): Launch {
  const { command, path } = program;
  const [file = "", ...args] = command.command;
  const image: Image = {
    path,
    argv: [file, ...args],
    env: Array.from(command.env, ([name, value]) => `${name}=${value}`),
    cwd: command.cwd,
    stdio: [nowhere, output.stdout ?? nowhere, output.stderr ?? nowhere],
  };
  try {
    const start = () => startHeld(image, (one) => startAs(command.account, one, place));
    return { ok: true, leader: tag === null ? start() : withTag(tag, start) };
  } catch (error) {
    return explain(program, error as NodeJS.ErrnoException);
  }
}

function startAs(account: Account | null, image: Image, place: Place): number {
  if (account === null) return posixSpawn(place.enter(image));
  const descent = becomeUser(image, account);
  try {
    return posixSpawn(place.enter(descent));
  } finally {
    closeSync(descent.stdio.at(-1) ?? -1);
  }
}

/** Start and hold: the descriptor for the pidfd is put by before there is a child that needs one. */
function startHeld(image: Image, spawn: (image: Image) => number): Leader {
  const slot = openSync("/dev/null", "r");
  let pid: number;
  try {
    pid = startAsExecvp(image, spawn);
  } finally {
    closeSync(slot);
  }
  return holdChild(pid);
}

/** A script without `#!` is run by the shell. man 3 exec, of execvp. */
function startAsExecvp(image: Image, spawn: (image: Image) => number): number {
  try {
    return spawn(image);
  } catch (error) {
    const isNoProgram = (error as NodeJS.ErrnoException).code === "ENOEXEC";
    if (!isNoProgram || isBinary(within(image.cwd, image.path))) throw error;
    const [, ...args] = image.argv;
    return spawn({ ...image, path: "/bin/sh", argv: ["sh", image.path, ...args] });
  }
}

// --- before exec ------------------------------------------------------------------------------

/**
 * Whatever can be seen to be wrong: behind the gate it would be too late to say so, and the errno of exec is not
 * told there. man 2 execve.
 */
function lookAt(command: Command): Program | Failure {
  const { cwd } = command;
  const closed = whyNotExecute(`${cwd}/`);
  if (closed !== null) return failed("cwd", closed, `cannot enter the working directory ${cwd}`);
  const { path, errno } = findFile(command);
  if (errno !== null) {
    return failed("command", errno, `${reasons[errno] ?? "cannot execute"}: ${path}`);
  }
  return lookAtInterpreters(path, cwd) ?? { ok: true, command, path };
}

const reasons: Readonly<Record<string, string>> = {
  ENOENT: "command not found",
  EACCES: "not an executable file, or out of reach",
};

/** The file that execvp would run, as it would name it; else what it would fail with. man 3 exec. */
function findFile({ command, cwd, env }: Command): { path: string; errno: string | null } {
  const [file = ""] = command;
  if (file.includes("/")) return { path: file, errno: whyNotRun(file, cwd) };
  let refused = { path: file, errno: "ENOENT" };
  for (const folder of (env.get("PATH") ?? "/bin:/usr/bin").split(delimiter)) {
    const path = folder === "" ? file : `${folder}/${file}`;
    const errno = whyNotRun(path, cwd);
    if (errno === null) return { path, errno };
    if (errno !== "ENOENT" && errno !== "ENOTDIR") refused = { path, errno };
  }
  return refused;
}

/** How many interpreters there may be, each the script of the next. Linux, fs/exec.c, exec_binprm. */
const INTERPRETERS = 5;

/** Null when nothing is wrong with what `#!` asks for, or nothing is asked for. */
function lookAtInterpreters(path: string, cwd: string): Failure | null {
  let script = path;
  for (let count = 0; count <= INTERPRETERS; count++) {
    const interpreter = interpreterOf(within(cwd, script));
    if (interpreter === null) return null;
    const errno = whyNotRun(interpreter, cwd);
    if (errno !== null) return failedInterpreter(errno, script);
    script = interpreter;
  }
  return failedInterpreter("ELOOP", path);
}

function failedInterpreter(errno: string, script: string): Failure {
  const why = errno === "ENOENT" ? "does not exist" : "cannot be executed";
  return failed("interpreter", errno, `the interpreter that ${script} asks for ${why}`);
}

/** The errno with which exec would refuse that file, whatever is in it; null where it would not. */
function whyNotRun(path: string, cwd: string): string | null {
  const absolute = within(cwd, path);
  return whyNotExecute(absolute) ?? (isFile(absolute) ? null : "EACCES");
}

/** As the kernel takes it: `..` behind a link leads elsewhere than its text says, and a last `/` counts. */
function within(cwd: string, path: string): string {
  return path.startsWith("/") ? path : `${cwd}/${path}`;
}

function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false; // gone since
  }
}

/** As much of a file as the kernel looks at. include/uapi/linux/binfmts.h, BINPRM_BUF_SIZE. */
const header = Buffer.alloc(256);

/**
 * What `#!` asks for, which may be nothing (the kernel takes that for the working directory); null for
 * everything that is no such script, or may be run but not read. Linux, fs/binfmt_script.c.
 */
function interpreterOf(path: string): string | null {
  const text = readHeader(path)?.padEnd(header.length, "\0");
  const [found, name = ""] = /^#![ \t]*(?:([^ \t\n\0]+)[ \t\n\0]|\0)/.exec(text ?? "") ?? [];
  return found === undefined ? null : Buffer.from(name, "latin1").toString();
}

/** No text for a shell, as shells have it: a NUL in its first line. POSIX, 2.9.1. */
function isBinary(path: string): boolean {
  return /^[^\n]*\0/.test(readHeader(path) ?? "");
}

/** A character for each byte; null for what may be run but not read. */
function readHeader(path: string): string | null {
  let fd: number;
  try {
    // Whoever owns the file may hold a lease on it, or put a FIFO in its place: nobody waits for them.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return null; // executable but not to be read now: the kernel will say
  }
  try {
    return header.toString("latin1", 0, readSync(fd, header, 0, header.length, 0));
  } finally {
    closeSync(fd);
  }
}

// --- why not ----------------------------------------------------------------------------------

/** Name the stage of a failed start: the errno alone does not say which file was meant. */
function explain(
  { command, path }: Program,
  { code: errno = "EUNKNOWN" }: NodeJS.ErrnoException,
): Failure {
  const full = noRoom(errno);
  if (full !== null) return full;
  if (errno === "E2BIG") {
    return failed("exec", errno, "arguments and environment are too long for the kernel");
  }
  // Whatever was there a moment ago may be gone.
  const now = findProgram(command);
  if (!now.ok) return now;
  if (errno === "ENOENT") return failedInterpreter(errno, path);
  return failed("exec", errno, `cannot execute ${path}`);
}

/** The failure that a system at its limits is, whatever ran into them; null for any other errno. */
export function noRoom(errno: string): Failure | null {
  if (!["EAGAIN", "EMFILE", "ENFILE", "ENOMEM"].includes(errno)) return null;
  return failed("fork", errno, "the system has no room for another process");
}

function failed(stage: Stage, errno: string, what: string): Failure {
  return { ok: false, stage, errno, message: `${errno}: ${what}` };
}
