// From a leader's end to that of the last member: what the table is told of it, and when. What is to be ended
// then goes down the ladder like all else.

import { sitOut } from "../kernel/reserve.js";
import type { Event, Exit, Stage } from "../life/state.js";
import type { Containment, Leader } from "../tree/containment.js";
import { type Entry, hasTree } from "./entry.js";
import { descend } from "./supervisor.js";
import { apply, type Table } from "./table.js";

/** From the leader's end to that of the last member: what the table is told, and when. */
export function followTree(
  table: Table,
  entry: Entry,
  leader: Leader,
  tree: Containment,
): Promise<void> {
  return untilOver(table, entry, leader, tree)
    .catch((error: unknown) => sitOut(error).then(() => followTree(table, entry, leader, tree)))
    .catch((error: Error) => {
      table.log.error("cannot follow a tree", { id: entry.id, error: String(error.stack) });
    });
}

async function untilOver(
  table: Table,
  entry: Entry,
  leader: Leader,
  tree: Containment,
): Promise<void> {
  await leader.exited;
  const nowMs = Date.now();
  const isOver = await tree.isEmpty();
  const ended = endOf(entry, leader, nowMs);
  if (leader.neverRan && isOver && entry.state.at === "running") {
    const exit = leader.exit ?? { by: "unknown" };
    apply(table, entry, { on: "spawnFailed", nowMs, ...whyNeverRan(exit) });
  } else if (isOver) {
    apply(table, entry, ...ended, { on: "emptied", nowMs });
  } else {
    apply(table, entry, ...ended);
    // In a turn of its own: nothing is signalled where ends are reported.
    await new Promise(setImmediate);
    if (entry.state.at === "draining" && entry.spec.strays === "end" && hasTree(entry)) {
      descend(table, entry, {});
    }
    await tree.emptied();
    apply(table, entry, { on: "emptied", nowMs: Date.now() });
  }
}

/** Its leader's end, unless that was on record before. */
function endOf({ state }: Entry, leader: Leader, nowMs: number): Event[] {
  if ("exit" in state && state.exit !== null) return [];
  return [{ on: "leaderExited", nowMs, exit: leader.exit ?? { by: "unknown" } }];
}

/** All that the shell at the gate tells; its own words are in the stderr of the process. */
function whyNeverRan(exit: Exit): { stage: Stage; errno: string } {
  const code = exit.by === "code" ? exit.code : 0;
  if (code === 127) return { stage: "exec", errno: "ENOENT" };
  return { stage: code === 125 ? "contain" : "exec", errno: "EUNKNOWN" };
}
