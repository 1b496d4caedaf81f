// How a process enters the table: admission, id and marks, output, launch; and what its leader's end
// sets off. Ending trees is the supervisor's.

import { randomBytes } from "node:crypto";
import { basename } from "node:path";
import { type Checked, limits, type Process, Refusal } from "../client/wire.js";
import type { Containment, Leader, Place } from "./containment.js";
import { type Failure, type Launch, launch, noRoom } from "./launch.js";
import { closeOutput, createOutput, type OutputFds } from "./output.js";
import { type Exit, isFinal, type Stage } from "./state.js";
import { descend } from "./supervisor.js";
import { apply, describe, type Entry, isLiving, type Owner, type Table } from "./table.js";
import { tagOf } from "./tag.js";

/** What `spawn` needs beyond its params: on whose behalf, as whom, and that user's environment. */
export type Identity = { owner: Owner; user: string; defaults: Record<string, string> };

/**
 * Launch a process and enter it. Refusals: `shutting_down`, `name_taken`, `limit_exceeded`,
 * `spawn_failed` (then it stays known as `failed`, under the id in the facts).
 */
export function spawn(
  table: Table,
  params: Checked<"spawn">,
  { owner, user, defaults }: Identity,
): Process {
  const { command, cwd, stopSignal, graceMs, strays, name = null } = params;
  admit(table, name);
  if (params.user !== undefined && params.user !== user) {
    const message = `Running as ${params.user} needs a daemon of root; this one runs as ${user}`;
    throw new Refusal("permission_denied", message, { field: "user" });
  }
  const entry: Entry = {
    id: mintId(table),
    spec: { command, cwd, stopSignal, graceMs, strays, name, user },
    owner,
    containment: table.containing.kind,
    state: { at: "starting" },
    leader: null,
    tree: null,
    ladder: null,
    waiters: new Set(),
    members: null,
  };
  table.entries.set(entry.id, entry);
  if (name !== null) table.byName.set(name, entry);

  // The marks come first: a long environment is searched only so far.
  const own = marks(table, entry);
  const env = { ...own, ...(params.env ?? defaults), ...own };
  const started = start(table, entry, params.output, env);
  if (!started.ok) {
    const { stage, errno, message } = started;
    apply(table, entry, { on: "spawnFailed", nowMs: Date.now(), stage, errno });
    throw new Refusal("spawn_failed", message, { stage, errno, id: entry.id });
  }
  enter(table, entry, started.leader, started.tree);
  return describe(entry);
}

function admit(table: Table, name: string | null): void {
  if (table.closing) throw new Refusal("shutting_down", "The daemon is shutting down");
  const holder = name === null ? undefined : table.byName.get(name);
  if (holder !== undefined && !isFinal(holder.state)) {
    const message = `Name taken: ${name} is held by ${holder.id}`;
    throw new Refusal("name_taken", message, { holder: describe(holder) });
  }
  if (table.living >= limits.processes) {
    const message = `The daemon holds ${limits.processes} living processes: end some first`;
    throw new Refusal("limit_exceeded", message, { limit: "processes" });
  }
}

function mintId(table: Table): string {
  for (;;) {
    const id = `p${randomBytes(6).toString("hex")}`;
    if (!table.entries.has(id)) return id;
  }
}

function marks(table: Table, { id, spec }: Entry): Record<string, string> {
  const mark = { PROCSUP_ID: id, PROCSUP_SOCKET: table.socket };
  return spec.name === null ? mark : { ...mark, PROCSUP_NAME: spec.name };
}

type Started = { ok: true; leader: Leader; tree: Containment } | Failure;

/** Output, then a place, then life; whatever was made is taken down again when the next step fails. */
function start(
  table: Table,
  { id, spec }: Entry,
  mode: Checked<"spawn">["output"],
  env: Record<string, string>,
): Started {
  let output: OutputFds;
  try {
    output = createOutput(table.output, id, mode, spec.name ?? basename(spec.command[0] ?? ""));
  } catch (error) {
    const what = mode === "journal" ? "cannot reach journald" : "cannot create output files";
    return failure("output", error, what);
  }
  try {
    const { tags } = table;
    const place = table.containing.prepare(id);
    const { command, cwd } = spec;
    const tag = tags.inForce ? tagOf(tags.key, id) : null;
    return settle(launch({ command, cwd, env }, output, place, tag), place);
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

function enter(table: Table, entry: Entry, leader: Leader, tree: Containment): void {
  entry.leader = leader;
  entry.tree = tree;
  table.living += 1;
  table.byPid.set(leader.pid, entry);
  apply(table, entry, { on: "spawned", nowMs: Date.now(), pid: leader.pid });
  const { id, spec } = entry;
  const [program = ""] = spec.command;
  table.log.info("spawned", { id, name: spec.name, pid: leader.pid, command: program });
  follow(table, entry, leader, tree).catch((error: Error) => {
    table.log.error("cannot follow a tree", { id, error: String(error.stack) });
  });
}

/** From the leader's end to that of the last member: what the table is told, and when. */
async function follow(
  table: Table,
  entry: Entry,
  leader: Leader,
  tree: Containment,
): Promise<void> {
  await leader.exited;
  const nowMs = Date.now();
  const exit = leader.exit ?? { by: "unknown" };
  const isOver = await tree.isEmpty();
  if (leader.neverRan && isOver && entry.state.at === "running") {
    apply(table, entry, { on: "spawnFailed", nowMs, ...whyNeverRan(exit) });
  } else if (isOver) {
    apply(table, entry, { on: "leaderExited", nowMs, exit }, { on: "emptied", nowMs });
  } else {
    apply(table, entry, { on: "leaderExited", nowMs, exit });
    // In a turn of its own: nothing is signalled where ends are reported.
    await new Promise(setImmediate);
    if (entry.state.at === "draining" && entry.spec.strays === "end" && isLiving(entry)) {
      descend(table, entry, {});
    }
    await tree.emptied();
    apply(table, entry, { on: "emptied", nowMs: Date.now() });
  }
}

/** All that the shell at the gate tells; its own words are in the stderr of the process. */
function whyNeverRan(exit: Exit): { stage: Stage; errno: string } {
  const code = exit.by === "code" ? exit.code : 0;
  if (code === 127) return { stage: "exec", errno: "ENOENT" };
  return { stage: code === 125 ? "contain" : "exec", errno: "EUNKNOWN" };
}
