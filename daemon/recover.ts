// How the table comes to be: the state directory is claimed, the containment chosen, the journal read,
// and what an earlier daemon has left is taken up or put away.

import { join } from "node:path";
import { idPattern } from "../client/wire.js";
import { makeFolder } from "./kernel/files.js";
import { openJournal, type Read, readJournal, tidyUp } from "./life/journal.js";
import { openOutputFolder, sweepOutput } from "./output/output.js";
import { adoptAll, type Kept } from "./processes/adopt.js";
import type { Entry } from "./processes/entry.js";
import { createTable, currentLines, type Keeper, type Table } from "./processes/table.js";
import { claimState, reclaimState } from "./runtime/claim.js";
import type { Log } from "./runtime/log.js";
import type { Settings, Unit } from "./runtime/settings.js";
import { chooseContainment } from "./tree/choose.js";
import { createTags } from "./tree/tag.js";

export type Parts = {
  readonly settings: Settings;
  readonly unit: Unit;
  readonly log: Log;
  /** Where this daemon is served, as its processes are told. */
  readonly socket: string;
  readonly keeper: Keeper;
  readonly publish: (entry: Entry) => void;
};

/**
 * The table as an earlier daemon has left it, and why cgroups are not in force (null when they are).
 * Throws CannotStart.
 */
export async function openTable(parts: Parts): Promise<{ table: Table; why: string | null }> {
  const { settings, unit, log, socket, keeper, publish } = parts;
  const { state, outputBytes, historyCount, historyAgeMs, historyBytes } = settings;
  const key = claimState(state);
  const path = join(state, "journal");
  const read = readJournal(path);
  const folder = join(state, "output");
  const output = await openOutputFolder(folder, { capBytes: outputBytes, log });
  const reclaim = () => {
    reclaimState(state, key);
    makeFolder(folder, 0o700);
  };
  const journal = openJournal({ path, log, reclaim, current: () => currentLines(table) }, read);
  const tags = createTags(key);
  // After whatever else may fail: the cgroup that it makes would stay.
  const { containing, why } = await chooseContainment({ ...settings, socket }, tags, unit);
  const table = createTable(
    { log, journal, output, containing, tags, socket, keeper, publish },
    { historyCount, historyAgeMs, historyBytes },
  );
  await recover(table, read, keptOf(unit));
  tidyUp(journal);
  return { table, why };
}

/** What the service manager has kept for us under the id of a process. */
function keptOf({ fds }: Unit): Kept {
  const named = [...fds].flatMap(([name, [fd]]) => (fd === undefined ? [] : [[name, fd] as const]));
  return new Map(named.filter(([name]) => idPattern.test(name)));
}

/** Take up what an earlier daemon has left, and put away what belongs to nobody any more. */
async function recover(table: Table, { recorded, bad }: Read, kept: Kept): Promise<void> {
  for (const { lineNumber, reason } of bad) {
    table.log.warning("a line of the journal is left out", { lineNumber, reason });
  }
  const found = await adoptAll(table, recorded.values(), kept);
  if (recorded.size > 0) table.log.info("recovered", found);
  const { entries } = table;
  await table.containing.sweep((id) => (entries.get(id)?.tree ?? null) !== null);
  await sweepOutput(table.output, (id) => entries.has(id));
}
