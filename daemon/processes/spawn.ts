// How a process enters the table: admission, id and marks, output, launch. What its leader's end sets off is
// told in follow.ts.

import { randomUUID } from "node:crypto";
import { basename } from "node:path";
import { type Checked, limits, type Process, Refusal } from "../../client/wire.js";
import { append } from "../life/journal.js";
import { isFinal, type Stage } from "../life/state.js";
import { closeOutput, createOutput, giveOutput, type OutputFds } from "../output/output.js";
import type { Containment, Leader, Place } from "../tree/containment.js";
import { identify } from "../tree/identity.js";
import {
  type Command,
  type Failure,
  findProgram,
  type Launch,
  launch,
  noRoom,
} from "../tree/launch.js";
import { isBorne, tagFor } from "../tree/tag.js";
import { type Behalf, takeSpawn, type Viewer } from "./access.js";
import { createEntry, describe, type Entry } from "./entry.js";
import { followTree } from "./follow.js";
import { apply, bringToLife, enter, keepLeader, nameKey, type Table } from "./table.js";

/**
 * Launch a process and enter it. Refusals: `shutting_down`, `name_taken`, `limit_exceeded`,
 * `permission_denied` and `invalid_params` for a user, `spawn_failed` (then it stays known as
 * `failed`, under the id in the facts).
 */
export function spawn(
  table: Table,
  params: Checked<"spawn">,
  { viewer, owner, as }: Behalf,
): Process {
  const { command, cwd, stopSignal, graceMs, strays, name = null } = params;
  admit(table, viewer, name);
  const { user, account, defaults } = as(params.user);
  if (params.output === "journal" && account !== null) throw notInOurName();
  const id = mintId(table);
  const { containing, socket } = table;
  const place = { containment: containing.kind, room: containing.room(id), socket };
  const spec = { name, command, cwd, user, owner, stopSignal, graceMs, strays, ...place };
  const entry = createEntry(id, spec, { at: "starting" });
  // What is not on record is not started: a crash would lose it.
  const errno = append(table.journal, { id, spec, state: entry.state });
  enter(table, entry);
  if (errno !== null) throw fail(table, entry, unrecorded(errno));

  const env = environment(table, entry, params.env ?? defaults);
  const started = start(table, entry, params.output, { command, cwd, env, account });
  if (!started.ok) throw fail(table, entry, started);
  begin(table, entry, started);
  return describe(entry);
}

/** journald takes whoever connects to it for the one who writes. */
function notInOurName(): Refusal {
  const message =
    "output: journal would write in the daemon's name, not yours: use split or merged";
  return new Refusal("permission_denied", message, { field: "output" });
}

function unrecorded(errno: string): Failure {
  const message = `${errno}: the journal cannot be written, so nothing new is started`;
  return { ok: false, stage: "journal", errno, message };
}

function fail(table: Table, entry: Entry, { stage, errno, message }: Failure): Refusal {
  apply(table, entry, { on: "spawnFailed", nowMs: Date.now(), stage, errno });
  return new Refusal("spawn_failed", message, { stage, errno, id: entry.id });
}

function admit(table: Table, viewer: Viewer, name: string | null): void {
  if (table.closing) throw new Refusal("shutting_down", "The daemon is shutting down");
  const holder = name === null ? undefined : table.byName.get(nameKey(viewer.uid, name));
  if (holder !== undefined && !isFinal(holder.state)) {
    const message = `Name taken: ${name} is held by ${holder.id}`;
    throw new Refusal("name_taken", message, { holder: describe(holder) });
  }
  if (table.living >= limits.processes) {
    const message = `The daemon holds ${limits.processes} living processes: end some first`;
    throw new Refusal("limit_exceeded", message, { limit: "processes" });
  }
  takeSpawn(table.takings, viewer);
}

/**
 * 48 random bits: the last of a UUID, which Node makes many of at once. RFC 9562, 5.4. A tag holds 32
 * of them: two trees that live and bear the same would be one.
 */
function mintId({ entries, tags }: Table): string {
  for (;;) {
    const id = `p${randomUUID().slice(-12)}`;
    if (!entries.has(id) && !isBorne(tags, id)) return id;
  }
}

/** Ours, whatever is given: a caller that is a process of ours hands on its own, a name too. */
const isMark = /^PROCSUP_(ID|NAME|SOCKET)$/;

/**
 * The marks come first: a long environment is searched only so far. A map, since objects of ever other
 * keys cost V8 kilobytes each.
 */
function environment(
  { socket }: Table,
  { id, spec }: Entry,
  given: Readonly<Record<string, string>>,
): Map<string, string> {
  const all = new Map([
    ["PROCSUP_ID", id],
    ["PROCSUP_SOCKET", socket],
  ]);
  if (spec.name !== null) all.set("PROCSUP_NAME", spec.name);
  for (const [name, value] of Object.entries(given)) if (!isMark.test(name)) all.set(name, value);
  return all;
}

type Running = { leader: Leader; tree: Containment };
type Started = ({ ok: true } & Running) | Failure;

/** A program, output, a place, life; whatever was made is taken down again when the next step fails. */
function start(
  table: Table,
  { id, spec }: Entry,
  mode: Checked<"spawn">["output"],
  command: Command,
): Started {
  const program = findProgram(command);
  if (!program.ok) return program;
  let output: OutputFds;
  try {
    output = createOutput(table.output, id, mode, spec.name ?? basename(spec.command[0] ?? ""));
  } catch (error) {
    const what = mode === "journal" ? "cannot reach journald" : "cannot create output files";
    return failure("output", error, what);
  }
  try {
    const { account } = command;
    if (account !== null) giveOutput(output, account.uid, account.gid);
    const place = table.containing.prepare(id, account?.uid ?? null);
    const tag = tagFor(table.tags, id);
    return settle(launch(program, output, place, tag), place);
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    return noRoom(code) ?? failure("contain", error, "cannot make a cgroup");
  } finally {
    closeOutput(output);
  }
}

function settle(launched: Launch, place: Place): Started {
  if (launched.ok) return { ...launched, tree: place.hold(launched.leader) };
  place.abandon();
  return launched;
}

function failure(stage: Stage, error: unknown, what: string): Failure {
  const errno = (error as NodeJS.ErrnoException).code ?? "EUNKNOWN";
  return { ok: false, stage, errno, message: `${errno}: ${what}` };
}

function begin(table: Table, entry: Entry, { leader, tree }: Running): void {
  const { pid, pidfd } = leader;
  bringToLife(table, entry, leader, tree);
  apply(table, entry, { on: "spawned", nowMs: Date.now(), pid, identity: identify(pid, pidfd) });
  const { id, spec } = entry;
  const [program = ""] = spec.command;
  table.log.info("spawned", { id, name: spec.name, pid, command: program });
  keepLeader(table, entry);
  void followTree(table, entry, leader, tree);
}
