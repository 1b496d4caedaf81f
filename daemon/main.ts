// procsupd: the only file that wires. Settings, log, state directory, table, door, signals; each is
// made here once and nothing is decided here that a file below could decide.

import { randomBytes } from "node:crypto";
import { closeSync } from "node:fs";
import net from "node:net";
import { isatty } from "node:tty";
import { setFlagsFromString } from "node:v8";
import { version } from "../client/version.js";
import { serve } from "./doors/accept.js";
import { welcome } from "./doors/caller.js";
import { createFeed, type Feed, publish, untilTold } from "./doors/feed.js";
import { createHttpDoor } from "./doors/http.js";
import { createLineDoor } from "./doors/line.js";
import { createCalls } from "./doors/methods.js";
import { createPatience } from "./doors/patience.js";
import { createAnswer } from "./doors/rpc.js";
import { keepDescriptorsFromChildren } from "./kernel/native.js";
import { reachesGroups } from "./kernel/pidfd.js";
import { findAccount, findGroup } from "./kernel/users.js";
import { isFinal } from "./life/state.js";
import { describe, type Entry } from "./processes/entry.js";
import { summary } from "./processes/reports.js";
import { createSampler } from "./processes/usage.js";
import { openTable } from "./recover.js";
import { reload } from "./reload.js";
import { CannotStart } from "./runtime/claim.js";
import { openRecords } from "./runtime/journald.js";
import { claimSocket, listen, passedSocket } from "./runtime/listen.js";
import { createLog, type Log, logStyle, oneLine } from "./runtime/log.js";
import {
  BadSetting,
  readSettings,
  readUnit,
  type Settings,
  type Unit,
  usage,
} from "./runtime/settings.js";
import { connectManager, feedWatchdog } from "./runtime/systemd.js";
import { depart, hurry } from "./stop.js";
import { sweep } from "./sweep.js";

/** How long a client may take to read its last replies when the daemon goes. */
const LAST_REPLIES_MS = 1_000;

async function run(settings: Settings, unit: Unit): Promise<void> {
  setUpProcess();
  const log = openLog(settings);
  process.on("exit", () => log.flush());
  process.on("uncaughtException", (error) => fatal(log, error));
  const passed = passedSocket(unit.fds.get("procsup.socket") ?? []);
  const socket = passed?.path ?? settings.socket;
  const patienceWith = createPatience(settings.faultsPerSecond);
  const rules = { adminGid: adminGidOf(settings), users: usersOf(settings), patienceWith };
  if (passed === null) await claimSocket(socket);
  const feed = createFeed();
  let status = () => "starting"; // until there is a table
  const manager = connectManager(unit, () => status());
  const publishEntry = (entry: Entry) => {
    tell(feed, entry);
    manager.statusChanged();
  };
  const parts = { settings, unit, log, socket, keeper: manager, publish: publishEntry };
  const { table, why } = await openTable(parts);
  status = () => summary(table);
  const features = { groupSignal: reachesGroups, tags: table.tags.inForce, cgroup: why ?? true };
  const bounds = { faultsPerSecond: settings.faultsPerSecond };
  const calls = createCalls({ table, feed, sampler: createSampler(), version, features, bounds });
  const answer = createAnswer(calls, (error) => logUnforeseen(log, error));

  const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true });
  const doors = {
    line: createLineDoor(answer),
    http: createHttpDoor(answer, () => table.closing),
  };
  const closeConnections = serve(server, doors, (guest) => welcome(guest, rules, log));
  const removeSocket = await listen(server, socket, socketGroup(), passed);
  server.on("error", (error) => log.error("cannot accept", { error: error.message }));
  const stop = async () => {
    const departure = await depart({ table, manager, unit });
    if (departure.how === "ended") tryRemove(log, removeSocket);
    server.close();
    await untilTold(feed, LAST_REPLIES_MS);
    await closeConnections(LAST_REPLIES_MS, departure.how === "ended");
    if (departure.how === "left") process.exit(0);
    await table.containing.close();
    process.exit(departure.survivors === 0 ? 0 : 1);
  };
  onStopSignal(log, stop, () => hurry(table));
  let inForce = settings;
  onReloadSignal(() => {
    inForce = reload({ log, manager, history: table.history }, inForce, readOwnSettings);
  });

  const where = { socket, state: settings.state, containment: table.containing.kind, why };
  log.info("ready", { version, pid: process.pid, ...where });
  manager.tell("READY=1", `STATUS=${summary(table)}`);
  feedWatchdog(unit, manager);
}

/** A stale socket is no reason to break off a stop: the next daemon replaces it. */
function tryRemove(log: Log, removeSocket: () => void): void {
  try {
    removeSocket();
  } catch (error) {
    log.warning("cannot remove the socket", { error: (error as Error).message });
  }
}

/** Whom root lets connect: the group that `procsup install` makes, as the unit's socket does. */
function socketGroup(): number | null {
  return process.geteuid?.() === 0 ? findGroup("procsup") : null;
}

function adminGidOf({ adminGroup }: Settings): number | null {
  if (adminGroup === null) return null;
  const gid = /^\d+$/.test(adminGroup) ? Number(adminGroup) : findGroup(adminGroup);
  if (gid === null) throw new BadSetting(`adminGroup: there is no group ${adminGroup}`);
  return gid;
}

function usersOf({ users }: Settings): Settings["users"] {
  const isKnown = (user: string) => /^(\d+|\*)$/.test(user) || findAccount(user) !== null;
  const stranger = Object.keys(users).find((user) => !isKnown(user));
  if (stranger === undefined) return users;
  throw new BadSetting(`users: there is no user ${stranger}`);
}

async function runSweep(settings: Settings, unit: Unit): Promise<void> {
  const log = openLog(settings);
  const isClean = await sweep(settings, unit, log);
  log.flush();
  process.exit(isClean ? 0 : 1);
}

function openLog({ logLevel }: Settings): Log {
  const style = logStyle(process.env);
  return createLog(logLevel, style, style === "journal" ? openRecords() : null);
}

function setUpProcess(): void {
  process.umask(0o022);
  // V8 reads these at each use. Young objects stay in their first megabytes, 30 MB less under load, and this thread
  // tidies so little by itself: it would wait up to 4 ms for helpers that others keep from a core.
  setFlagsFromString("--semi-space-growth-factor=1");
  setFlagsFromString("--no-parallel-scavenge");
  setFlagsFromString("--no-concurrent-array-buffer-sweeping");
  keepDescriptorsFromChildren();
}

function tell(feed: Feed, entry: Entry): void {
  const { id, spec, state } = entry;
  const ended = isFinal(state);
  publish(feed, { id, owner: spec.owner, ended, describe: () => describe(entry) });
}

/** Log a bug with its stack; the reference is all that a client gets to see. */
function logUnforeseen(log: Log, error: unknown): string {
  const reference = randomBytes(4).toString("hex");
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  log.error("unforeseen", { reference, stack });
  return reference;
}

/** The first TERM or INT stops gracefully, a further one forces; so does HUP from a closed terminal. */
function onStopSignal(log: Log, stop: () => Promise<void>, force: () => Promise<unknown>): void {
  let stopping = false;
  const onSignal = (signal: NodeJS.Signals) => {
    log.info(stopping ? "forcing" : "stopping", { signal });
    const work = stopping ? force() : stop();
    stopping = true;
    work.catch((error) => fatal(log, error));
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  if (!isatty(0)) return;
  process.on("SIGHUP", onSignal);
  process.once("SIGHUP", () => process.once("exit", letGoOfTerminal));
}

/** At its exit Node sees to the terminal, and aborts where that is gone. */
function letGoOfTerminal(): void {
  for (const fd of [0, 1, 2]) closeSync(fd);
}

/** A daemon on a terminal hears of its end by HUP; every other one is asked to reload. */
function onReloadSignal(again: () => void): void {
  if (!isatty(0)) process.on("SIGHUP", again);
}

function fatal(log: Log, error: unknown): never {
  logUnforeseen(log, error);
  process.exit(70);
}

function refuseToStart(error: unknown): never {
  const planned = error instanceof BadSetting || error instanceof CannotStart;
  const unit = readUnit(process.env, process.pid);
  connectManager(unit, () => "").tell(`STATUS=cannot start: ${oneLine((error as Error).message)}`);
  process.stderr.write(`procsupd: ${planned ? error.message : (error as Error).stack}\n`);
  process.exit(planned ? 78 : 70); // EX_CONFIG and EX_SOFTWARE of sysexits.h
}

function readOwnSettings() {
  return readSettings(process.argv.slice(2), process.env);
}

function main(): void {
  try {
    const settings = readOwnSettings();
    if (settings === "help") process.stdout.write(usage);
    else if (settings === "version") process.stdout.write(`${version}\n`);
    else {
      const work = settings.sweep ? runSweep : run;
      work(settings, readUnit(process.env, process.pid)).catch(refuseToStart);
    }
  } catch (error) {
    refuseToStart(error);
  }
}

main();
