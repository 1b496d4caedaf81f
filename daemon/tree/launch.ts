// The one way into life: a command becomes a detached leader with files for its output, or a failure
// with stage and errno. It decides nothing about names, limits or what comes after.

import { closeSync, constants, openSync, readSync, type Stats, statSync } from "node:fs";
import { delimiter, resolve } from "node:path";
import { type Image, posixSpawn } from "../kernel/native.js";
import { type Account, asUser, mayExecute } from "../kernel/users.js";
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

/** A command, and the file that is to be executed for it. */
export type Program = { ok: true; command: Command; path: string };

/** Stdin of every process, and its output where none is kept. */
const nowhere = openSync("/dev/null", "r+");

/** The program of `command`, looked for as whoever is to run it: before anything is made for it. */
export function findProgram(command: Command): Program | Failure {
  const { account, cwd } = command;
  try {
    return asUser(account, () => {
      checkFolder(cwd);
      return { ok: true, command, path: pathOf(command) };
    });
  } catch (error) {
    return explain(command, error as NodeJS.ErrnoException);
  }
}

/**
 * Start a program inside `place`, as the leader of a session and group of its own, bearing `tag` unless
 * that is null. When it returns `ok`, exec has happened. On failure nothing runs.
 */
export function launch(
  { command, path }: Program,
  output: OutputFds,
  place: Place,
  tag: bigint | null,
): Launch {
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
    return explain(command, error as NodeJS.ErrnoException);
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
    if ((error as NodeJS.ErrnoException).code !== "ENOEXEC") throw error;
    const [, ...args] = image.argv;
    return spawn({ ...image, path: "/bin/sh", argv: ["sh", image.path, ...args] });
  }
}

// --- before exec ------------------------------------------------------------------------------

/**
 * The file that execvp would run, its interpreter looked at too: behind a cgroup's gate it would be
 * too late to say so. Throws ENOENT or EACCES. man 3 exec, man 2 execve.
 */
function pathOf(command: Command): string {
  const path = candidates(command).find(isExecutable);
  if (path === undefined) {
    const code = candidates(command).some(exists) ? "EACCES" : "ENOENT";
    throw Object.assign(new Error(code), { code });
  }
  const interpreter = interpreterOf(path);
  if (interpreter !== null && !isFile(resolve(command.cwd, interpreter))) {
    throw Object.assign(new Error("ENOENT"), { code: "ENOENT" });
  }
  return path;
}

function candidates({ command, cwd, env }: Command): string[] {
  const [file = ""] = command;
  const path = env.get("PATH") ?? "/bin:/usr/bin";
  const folders = file.includes("/") ? [""] : path.split(delimiter);
  return folders.map((folder) => resolve(cwd, folder, file));
}

function statOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined; // not ours to see: execvp passes it over just so
  }
}

function exists(path: string): boolean {
  return statOf(path) !== undefined;
}

function isFile(path: string): boolean {
  return statOf(path)?.isFile() === true;
}

function isExecutable(path: string): boolean {
  return isFile(path) && mayExecute(path);
}

const header = Buffer.alloc(256);

/** What `#!` asks for; null for everything that is no such script, or may be run but not read. */
function interpreterOf(path: string): string | null {
  let fd: number;
  try {
    // Whoever owns the file may hold a lease on it, or put a FIFO in its place: nobody waits for them.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return null; // executable but not to be read now: the kernel will say
  }
  try {
    const text = header.toString("latin1", 0, readSync(fd, header, 0, header.length, 0));
    return /^#![ \t]*([^ \t\n\0]+)/.exec(text)?.[1] ?? null;
  } finally {
    closeSync(fd);
  }
}

// --- why not ----------------------------------------------------------------------------------

/** Name the stage of a failed start: the errno alone does not say which file was meant. */
function explain(command: Command, { code: errno = "EUNKNOWN" }: NodeJS.ErrnoException): Failure {
  try {
    return asUser(command.account, () => explainAs(command, errno));
  } catch {
    // Then that was the reason as well: a root who may not change groups, in a namespace of a user's.
    return { ok: false, stage: "exec", errno, message: `${errno}: cannot become the user` };
  }
}

function explainAs(command: Command, errno: string): Failure {
  const [file = ""] = command.command;
  const failed = (stage: Stage, message: string): Failure => ({ ok: false, stage, errno, message });
  const full = noRoom(errno);
  if (full !== null) return full;
  if (errno === "E2BIG") {
    return failed("exec", "E2BIG: arguments and environment are too long for the kernel");
  }
  if (!isReachableFolder(command.cwd)) {
    return failed("cwd", `${errno}: cannot enter the working directory ${command.cwd}`);
  }
  const found = candidates(command).find(isFile);
  if (found === undefined) return failed("command", `${errno}: command not found: ${file}`);
  if (errno === "ENOENT") {
    return failed("interpreter", `ENOENT: the interpreter that ${found} asks for does not exist`);
  }
  if (errno === "EACCES") return failed("command", `EACCES: not an executable file: ${found}`);
  return failed("exec", `${errno}: cannot execute ${found}`);
}

/** The failure that a system at its limits is, whatever ran into them; null for any other errno. */
export function noRoom(errno: string): Failure | null {
  if (!["EAGAIN", "EMFILE", "ENFILE", "ENOMEM"].includes(errno)) return null;
  const message = `${errno}: the system has no room for another process`;
  return { ok: false, stage: "fork", errno, message };
}

function isReachableFolder(path: string): boolean {
  return statOf(path)?.isDirectory() === true && mayExecute(path);
}

/** Behind the gate it would be too late to say so. Throws as chdir(2) does. */
function checkFolder(path: string): void {
  if (isReachableFolder(path)) return;
  const code = statSync(path).isDirectory() ? "EACCES" : "ENOTDIR";
  throw Object.assign(new Error(code), { code });
}
