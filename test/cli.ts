// What scenarios of the CLI stand on: the bundle as it ships, set on a daemon.

import { type ChildProcess, spawn } from "node:child_process";
import { resolve } from "node:path";
import type { Client } from "../client/client.js";
import { type Daemon, type StartOptions, startDaemon, visitDaemon } from "./daemon.js";
import type { Scene } from "./scenario.js";

export const cliFile = resolve(import.meta.dirname, "../procsup.cjs");

/** Runs for longer than any scenario. */
export const sleep = ["sleep", "1000"];

/** All that a command said, and its exit code. */
export type Said = { code: number | null; out: string; err: string };

type Place = { env?: NodeJS.ProcessEnv; uid?: number; file?: string; stdout?: number };

/** Run the CLI in the scenario's folder. */
export function runCli(scene: Scene, args: string[], place: Place = {}) {
  const { file = cliFile, env, stdout = "pipe", ...rest } = place;
  const child = spawn(process.execPath, [file, ...args], {
    ...rest,
    cwd: scene.folder,
    env: { PATH: process.env["PATH"], ...env },
    stdio: ["ignore", stdout, "pipe"],
  });
  return { child, ...listenTo(child) };
}

/** What a command said so far, and once it has exited. */
export function listenTo(child: ChildProcess): { soFar: Said; said: Promise<Said> } {
  const soFar: Said = { code: null, out: "", err: "" };
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    soFar.out += text;
  });
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    soFar.err += text;
  });
  const said = new Promise<Said>((done) => {
    child.once("close", (code) => done({ ...soFar, code }));
  });
  return { soFar, said };
}

export type Desk = {
  daemon: Daemon;
  client: Client;
  env: NodeJS.ProcessEnv;
  /** Run one command against the daemon. */
  cli(...args: string[]): Promise<Said>;
};

/** A connection to the daemon that the file shares, or to one of the scene's own, and the CLI set on it. */
export async function setUp(scene: Scene, own?: StartOptions): Promise<Desk> {
  const daemon = own === undefined ? await visitDaemon(scene) : await startDaemon(scene, own);
  const env = { PROCSUP_SOCKET: daemon.socket, MARK: "of the caller" };
  const cli = (...args: string[]) => runCli(scene, args, { env }).said;
  return { daemon, client: await daemon.connect(), cli, env };
}

/** The document that a command printed with --json. */
export function documentOf(said: Said): Record<string, unknown> {
  return JSON.parse(said.out) as Record<string, unknown>;
}
