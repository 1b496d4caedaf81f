// How a process enters the table: admission, id and marks, output, launch; and what its leader's end
// sets off. Ending trees is the supervisor's.

import { randomBytes } from "node:crypto";
import { type Checked, limits, type Process, Refusal } from "../client/wire.js";
import { type Leader, processGroup } from "./containment.js";
import { type Launch, launch } from "./launch.js";
import { closeOutput, createOutput } from "./output.js";
import { type Event, type Exit, isFinal } from "./state.js";
import { descend } from "./supervisor.js";
import { apply, describe, type Entry, isLiving, type Owner, type Table } from "./table.js";

/** What `spawn` needs beyond its params: on whose behalf, as whom, and that user's environment. */
export type Identity = { owner: Owner; user: string; defaults: Record<string, string> };

/**
 * Launch a process and enter it. Refusals: `shutting_down`, `name_taken`, `limit_exceeded`,
 * `spawn_failed` (then it stays known as `failed`, under the id in the facts).
 */
export async function spawn(
  table: Table,
  params: Checked<"spawn">,
  { owner, user, defaults }: Identity,
): Promise<Process> {
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
    containment: "group",
    state: { at: "starting" },
    leader: null,
    tree: null,
    ladder: null,
    waiters: new Set(),
    members: null,
  };
  table.entries.set(entry.id, entry);
  if (name !== null) table.byName.set(name, entry);

  const env = { ...(params.env ?? defaults), ...marks(table, entry) };
  const launched = await launchWithOutput(table, entry, params.output, env);
  if (!launched.ok) {
    const { stage, errno, message } = launched;
    apply(table, entry, { on: "spawnFailed", nowMs: Date.now(), stage, errno });
    throw new Refusal("spawn_failed", message, { stage, errno, id: entry.id });
  }
  enter(table, entry, launched.leader);
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

async function launchWithOutput(
  table: Table,
  entry: Entry,
  mode: Checked<"spawn">["output"],
  env: Record<string, string>,
): Promise<Launch> {
  let output: ReturnType<typeof createOutput>;
  try {
    output = createOutput(table.output, entry.id, mode);
  } catch (error) {
    const errno = (error as NodeJS.ErrnoException).code ?? "EUNKNOWN";
    return { ok: false, stage: "output", errno, message: `${errno}: cannot create output files` };
  }
  try {
    const { command, cwd } = entry.spec;
    return await launch({ command, cwd, env }, output, (exit) => leaderEnded(table, entry, exit));
  } finally {
    closeOutput(output);
  }
}

function enter(table: Table, entry: Entry, leader: Leader): void {
  const tree = processGroup(leader);
  entry.leader = leader;
  entry.tree = tree;
  table.living += 1;
  table.byPid.set(leader.pid, entry);
  apply(table, entry, { on: "spawned", nowMs: Date.now(), pid: leader.pid });
  const { id, spec } = entry;
  const [program = ""] = spec.command;
  table.log.info("spawned", { id, name: spec.name, pid: leader.pid, command: program });
  tree.emptied().then(
    () => {
      if (!isFinal(entry.state)) apply(table, entry, { on: "emptied", nowMs: Date.now() });
    },
    (error: Error) => table.log.error("cannot watch a tree", { id, error: String(error.stack) }),
  );
}

/** Called from the exit callback: nothing may be signalled before the next turn of the loop. */
function leaderEnded(table: Table, entry: Entry, exit: Exit): void {
  const nowMs = Date.now();
  const events: Event[] = [{ on: "leaderExited", nowMs, exit }];
  if (entry.tree?.populated() === false) events.push({ on: "emptied", nowMs });
  apply(table, entry, ...events);
  if (entry.state.at === "draining" && entry.spec.strays === "end") {
    setImmediate(() => {
      if (entry.state.at === "draining" && isLiving(entry)) descend(table, entry, {});
    });
  }
}
