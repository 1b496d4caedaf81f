// procsupd: the only file that wires. Settings, log, state directory, table, door, signals; each is
// made here once and nothing is decided here that a file below could decide.

import { randomBytes } from "node:crypto";
import net from "node:net";
import { join } from "node:path";
import { isatty } from "node:tty";
import { setFlagsFromString } from "node:v8";
import { version } from "../client/version.js";
import { Refusal } from "../client/wire.js";
import { type Guest, serve } from "./accept.js";
import type { Policy } from "./access.js";
import { adoptAll } from "./adopt.js";
import { behalfOf, peerOf } from "./caller.js";
import { chooseContainment } from "./choose.js";
import { createLineDoor } from "./door.js";
import { createFeed, type Feed, publish } from "./feed.js";
import { createHttpDoor } from "./http.js";
import { openJournal, type Read, readJournal, tidyUp } from "./journal.js";
import { CannotStart, claimState, listen, reclaimState } from "./listen.js";
import { createLog, type Log, logStyle } from "./log.js";
import { type Caller, createCalls } from "./methods.js";
import { keepDescriptorsFromChildren } from "./native.js";
import { makeFolder, openOutputFolder, sweepOutput } from "./output.js";
import { reachesGroups } from "./pidfd.js";
import { createAnswer } from "./rpc.js";
import { BadSetting, readSettings, type Settings, usage } from "./settings.js";
import { isFinal } from "./state.js";
import { endAll } from "./supervisor.js";
import { createTable, currentLines, describe, type Entry, type Table } from "./table.js";
import { createTags } from "./tag.js";
import { createSampler } from "./usage.js";
import { findGroup } from "./users.js";

/** How long a client may take to read its last replies when the daemon goes. */
const LAST_REPLIES_MS = 1_000;

async function run(settings: Settings): Promise<void> {
  process.umask(0o022);
  // V8 reads it at each growth: young objects stay in their first megabytes, 30 MB less under load.
  setFlagsFromString("--semi-space-growth-factor=1");
  keepDescriptorsFromChildren();
  const log = createLog(settings.logLevel, logStyle(process.env));
  process.on("exit", () => log.flush());
  process.on("uncaughtException", (error) => fatal(log, error));
  const feed = createFeed();
  const { table, why } = await openTable(settings, log, feed);
  const features = { groupSignal: reachesGroups, tags: table.tags.inForce, cgroup: why ?? true };
  const calls = createCalls({ table, feed, sampler: createSampler(), version, features });
  const answer = createAnswer(calls, (error) => logUnforeseen(log, error));

  const policy = { adminGid: adminGidOf(settings), users: settings.users };
  const server = net.createServer({ allowHalfOpen: true });
  const doors = {
    line: createLineDoor(answer),
    http: createHttpDoor(answer, () => table.closing),
  };
  const closeConnections = serve(server, doors, (guest) => welcome(guest, policy));
  const removeSocket = await listen(server, settings.socket);
  server.on("error", (error) => log.error("cannot accept", { error: error.message }));
  const stop = async () => {
    const survivors = await endAll(table, { force: false });
    removeSocket();
    server.close();
    await closeConnections(LAST_REPLIES_MS);
    await table.containing.close();
    log.info("stopped", { survivors: survivors.length });
    process.exit(survivors.length === 0 ? 0 : 1);
  };
  onStopSignal(log, stop, () => endAll(table, { force: true }));

  const { socket, state } = settings;
  const { kind: containment } = table.containing;
  log.info("ready", { version, pid: process.pid, socket, state, containment, why });
}

function welcome(socket: net.Socket, policy: Policy): Guest<Caller> {
  const peer = peerOf(socket);
  const { uid } = peer;
  const behalf = behalfOf(peer, policy);
  if (behalf instanceof Refusal) return { uid, refusal: behalf };
  return { uid, callerOf: (listener) => ({ listener, behalf }) };
}

function adminGidOf({ adminGroup }: Settings): number | null {
  if (adminGroup === null) return null;
  const gid = /^\d+$/.test(adminGroup) ? Number(adminGroup) : findGroup(adminGroup);
  if (gid === null) throw new BadSetting(`adminGroup: there is no group ${adminGroup}`);
  return gid;
}

/** The table as an earlier daemon has left it, and why cgroups are not in force. */
async function openTable(
  settings: Settings,
  log: Log,
  feed: Feed,
): Promise<{ table: Table; why: string | null }> {
  const { state, socket, historyCount, historyAgeMs, historyBytes } = settings;
  const key = claimState(state);
  const tags = createTags(key);
  const { containing, why } = await chooseContainment(settings, tags);
  const folder = join(state, "output");
  const output = await openOutputFolder(folder, { capBytes: settings.outputBytes, log });
  const path = join(state, "journal");
  const read = readJournal(path);
  const reclaim = () => {
    reclaimState(state, key);
    makeFolder(folder);
  };
  const journal = openJournal({ path, log, reclaim, current: () => currentLines(table) }, read);
  const publishEntry = (entry: Entry) => tell(feed, entry);
  const parts = { log, journal, output, containing, tags, socket, publish: publishEntry };
  const table = createTable(parts, { historyCount, historyAgeMs, historyBytes });
  await recover(table, read);
  tidyUp(journal);
  return { table, why };
}

/** Take up what an earlier daemon has left, and put away what belongs to nobody any more. */
async function recover(table: Table, { recorded, bad }: Read): Promise<void> {
  for (const { lineNumber, reason } of bad) {
    table.log.warning("a line of the journal is left out", { lineNumber, reason });
  }
  const found = await adoptAll(table, recorded.values());
  if (recorded.size > 0) table.log.info("recovered", found);
  const isKnown = (id: string) => table.entries.has(id);
  table.containing.sweep(isKnown);
  await sweepOutput(table.output, isKnown);
}

function tell(feed: Feed, entry: Entry): void {
  publish(feed, entry.id, isFinal(entry.state), () => describe(entry));
}

/** Log a bug with its stack; the reference is all that a client gets to see. */
function logUnforeseen(log: Log, error: unknown): string {
  const reference = randomBytes(4).toString("hex");
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  log.error("unforeseen", { reference, stack });
  return reference;
}

/** The first TERM or INT stops gracefully, a further one forces; HUP only from a closed terminal. */
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
  process.on("SIGHUP", (signal) => {
    if (isatty(0)) onSignal(signal);
    else log.info("nothing to reload", { signal });
  });
}

function fatal(log: Log, error: unknown): never {
  logUnforeseen(log, error);
  process.exit(70);
}

function refuseToStart(error: unknown): never {
  const planned = error instanceof BadSetting || error instanceof CannotStart;
  process.stderr.write(`procsupd: ${planned ? error.message : (error as Error).stack}\n`);
  process.exit(planned ? 78 : 70); // EX_CONFIG and EX_SOFTWARE of sysexits.h
}

function main(): void {
  try {
    const settings = readSettings(process.argv.slice(2), process.env);
    if (settings === "help") process.stdout.write(usage);
    else if (settings === "version") process.stdout.write(`${version}\n`);
    else run(settings).catch(refuseToStart);
  } catch (error) {
    refuseToStart(error);
  }
}

main();
