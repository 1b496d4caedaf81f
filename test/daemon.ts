// What scenarios stand on: the real daemon as it ships, on a socket in the scenario's folder, and raw
// connections that know nothing of our client.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Readable } from "node:stream";
import { ok } from "uvu/assert";
import { type Client, connect } from "../client/client.js";
import { encode } from "../daemon/life/records.js";
import { removeCgroupsOf } from "./cage.js";
import { foreseenCalls, foreseenReply } from "./foreseen.js";
import { bearers, type Scene, scenario, until, within } from "./scenario.js";

const root = resolve(import.meta.dirname, "../..");
/** With both cores busy a start takes seconds. */
const START_LIMIT_MS = 12_000;
/** The bundle as it ships. */
export const daemonFile = join(root, "dist/procsupd.cjs");

export type Daemon = {
  readonly socket: string;
  readonly state: string;
  readonly pid: number;
  /** Lines of its log so far, stdout and stderr. */
  readonly log: string[];
  readonly child: ChildProcess;
  /** Its exit code, once it has exited. */
  readonly exited: Promise<number | null>;
  connect(): Promise<Client>;
  raw(): Promise<Raw>;
};

export type StartOptions = {
  socket?: string;
  state?: string;
  args?: string[];
  env?: Record<string, string>;
  /** Run through this argv prefix, like `prlimit --nofile=40`. */
  prefix?: string[];
};

/** Start the daemon and wait for its word that it is ready; stopped, by force if need be, at the end. */
export async function startDaemon(scene: Scene, options: StartOptions = {}): Promise<Daemon> {
  const daemon = launchDaemon(scene, options);
  const isReady = () => {
    if (daemon.child.exitCode !== null) throw new Error(`it exited: ${daemon.log.join("\n")}`);
    return daemon.log.some((line) => line.includes('"message":"ready"'));
  };
  await until("the daemon is ready", isReady, START_LIMIT_MS);
  return daemon;
}

let standing: { daemon: Daemon; stop: () => Promise<void> } | null = null;

/**
 * The daemon that the scenarios of a file share who want no other, with nobody in it: whoever a scenario leaves
 * there is ended with it. `theDaemonGoes` comes last.
 */
export async function visitDaemon(scene: Scene): Promise<Daemon> {
  standing ??= await standDaemon();
  const { daemon } = standing;
  scene.after(async () => {
    const client = await connect({ socket: daemon.socket });
    const { processes } = await client.list({});
    // One may end by itself meanwhile; whoever does not end is found below.
    await Promise.allSettled(processes.map(({ id }) => client.terminate({ id, force: true })));
    await client.close();
    await until("nobody is left in it", () => bearers(daemon.socket).length <= 1);
  });
  return { ...daemon, ...waysIn(scene, daemon.socket) };
}

async function standDaemon(): Promise<NonNullable<typeof standing>> {
  const folder = mkdtempSync(join(tmpdir(), "procsup-test-"));
  const undos: (() => void | Promise<void>)[] = [];
  const daemon = await startDaemon({ folder, after: (undo) => void undos.push(undo) });
  const stop = async () => {
    for (const undo of undos.reverse()) await undo();
    await until("nothing of it lives", () => bearers(folder).length === 0);
    rmSync(folder, { recursive: true });
  };
  return { daemon, stop };
}

/** The last scenario of a file whose scenarios share a daemon. */
export function theDaemonGoes(): void {
  scenario("the daemon of all this goes, and leaves nothing", async () => {
    await standing?.stop();
  });
}

/** The flags of a daemon with such settings in its file. */
export function configFile(scene: Pick<Scene, "folder">, settings: object): string[] {
  const path = join(scene.folder, "config.json");
  writeFileSync(path, JSON.stringify(settings));
  return ["--config", path];
}

/** The daemon is alive and answers somebody else at once. */
export async function assertServes(daemon: Daemon): Promise<void> {
  const { ask, socket } = await daemon.raw();
  ok((await within(2_000, "an answer", () => ask(call("info")))).result);
  socket.destroy();
}

/** Resident memory, now or at its peak. man 5 proc_pid_status. */
export function rssMib({ pid }: Daemon, at: "VmRSS" | "VmHWM" = "VmRSS"): number {
  const status = readFileSync(`/proc/${pid}/status`, "latin1");
  return Number(new RegExp(`${at}:\\s+(\\d+) kB`).exec(status)?.[1]) / 1024;
}

/** End the daemon as nothing can be prepared for; whoever it has started lives on. */
export async function crash(daemon: Daemon): Promise<void> {
  daemon.child.kill("SIGKILL");
  await daemon.exited;
}

type Value = { id?: string; events?: object[] };

/** Change what the journal of a daemon that is gone says; null leaves a line out. */
export function rewriteJournal(state: string, change: (value: Value) => object | null): void {
  const path = join(state, "journal");
  const lines = readFileSync(path, "utf8").split("\n").slice(0, -1);
  const changed = lines.flatMap((line) => {
    const { crc: _, ...value } = JSON.parse(line) as Value & { crc: string };
    return change(value) ?? [];
  });
  writeFileSync(
    path,
    changed.map((value) => encode(value as Parameters<typeof encode>[0])).join(""),
  );
}

/** What the daemon holds, as the kernel has it. */
function descriptors({ pid }: Daemon): Set<number> {
  return new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
}

/** Let the daemon open no descriptor of that number or above; the function returned lifts that. */
export function limitDescriptors({ pid }: Daemon, limit: number): () => void {
  const was = /^Max open files +(\d+)/m.exec(readFileSync(`/proc/${pid}/limits`, "utf8"))?.[1];
  const set = (soft: string) => {
    const { status, stderr } = spawnSync("prlimit", ["--pid", String(pid), `--nofile=${soft}:`]);
    if (status !== 0) throw new Error(`prlimit: ${stderr}`);
  };
  set(String(limit));
  return () => set(String(was));
}

/** Leave the daemon room for so many descriptors more, counted once it opens and closes none. */
export async function exhaust(daemon: Daemon, room = 0): Promise<() => void> {
  let taken = descriptors(daemon);
  let same = 0;
  await until("its descriptors are at rest", () => {
    const now = descriptors(daemon);
    same = [...now].join() === [...taken].join() ? same + 1 : 0;
    taken = now;
    return same === 5;
  });
  let limit = 0;
  for (let free = 0; free <= room; limit++) if (!taken.has(limit)) free += 1;
  return limitDescriptors(daemon, limit - 1);
}

/** As `startDaemon`, without waiting. */
export function launchDaemon(scene: Scene, options: StartOptions = {}): Daemon {
  const socket = options.socket ?? join(scene.folder, "s");
  const state = options.state ?? join(scene.folder, "state");
  const argv = [process.execPath, daemonFile, "--socket", socket, "--state", state];
  const [file = "", ...args] = [...(options.prefix ?? []), ...argv, ...(options.args ?? [])];
  const child = spawn(file, args, {
    env: { PATH: process.env["PATH"] ?? "", HOME: scene.folder, ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const log: string[] = [];
  onLines(child.stdout, (line) => log.push(line));
  onLines(child.stderr, (line) => log.push(line));
  const exited = new Promise<number | null>((done) => child.once("exit", (code) => done(code)));
  scene.after(
    async () =>
      void (await until("a killed daemon's cgroups are gone", () => removeCgroupsOf(state))),
  );
  scene.after(async () => {
    // Also one that the scenario has killed a moment ago.
    const isGone = () => child.exitCode !== null || child.signalCode !== null;
    child.kill("SIGTERM");
    await until("it stops", () => isGone() || log.some((line) => line.includes('"stopping"')));
    child.kill("SIGTERM");
    await within(5_000, "the daemon stops", () => exited);
  });
  return {
    socket,
    state,
    pid: child.pid ?? 0,
    log,
    child,
    exited,
    ...waysIn(scene, socket),
  };
}

/** Connections that end with the scene. */
function waysIn(scene: Scene, socket: string): Pick<Daemon, "connect" | "raw"> {
  return {
    connect: async () => {
      const client = await connect({ socket });
      scene.after(() => client.close());
      return foreseenCalls(client);
    },
    raw: () => openRaw(scene, socket),
  };
}

/** Cut at newlines alone: since Node 24 readline also cuts at U+2028 and U+2029, which JSON may hold. */
function onLines(stream: Readable, take: (line: string) => void): void {
  let rest = "";
  stream.setEncoding("utf8");
  stream.on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) take(line);
  });
  stream.on("end", () => {
    if (rest !== "") take(rest);
  });
}

/** A socket and the lines that came over it, parsed. */
export type Raw = {
  readonly socket: net.Socket;
  write(text: string): void;
  /** The next line, parsed. Rejects when the connection ends first. */
  next(): Promise<Reply>;
  /** Write one line, take one line. */
  ask(message: unknown): Promise<Reply>;
  readonly ended: Promise<void>;
};

type Facts = Record<string, unknown>;

/** What comes over the wire, before anybody has checked it. */
export type Reply = {
  jsonrpc?: string;
  id?: unknown;
  result?: Facts;
  error?: { code: number; message: string; data?: Facts };
  method?: string;
  params?: Facts;
};

export async function openRaw(scene: Scene, path: string): Promise<Raw> {
  const socket = net.connect({ path, allowHalfOpen: true });
  await new Promise<void>((done, fail) => {
    socket.once("connect", done);
    socket.once("error", fail);
  });
  socket.on("error", () => socket.destroy());
  scene.after(() => void socket.destroy());
  const lines: string[] = [];
  let wake = () => {};
  let over = false;
  onLines(socket, (line) => {
    lines.push(line);
    wake();
  });
  const ended = new Promise<void>((done) => {
    const end = () => {
      over = true;
      wake();
      done();
    };
    socket.once("end", end);
    socket.once("close", end);
  });
  const next = async (): Promise<Reply> => {
    while (lines.length === 0) {
      if (over) throw new Error("the connection ended before a reply");
      await new Promise<void>((go) => {
        wake = go;
      });
    }
    return JSON.parse(lines.shift() ?? "") as Reply;
  };
  const write = (text: string) => void socket.write(text);
  return {
    socket,
    write,
    next,
    ended,
    ask: async (message) => {
      write(`${JSON.stringify(message)}\n`);
      return foreseenReply(message, await next());
    },
  };
}

/** A call as JSON-RPC clients write it. */
export function call(method: string, params: object = {}, id: number | string = 1) {
  return { jsonrpc: "2.0", method, params, id };
}
