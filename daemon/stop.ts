// How the daemon goes: which of the two that SIGTERM can mean is meant, and how long that may take.
// A stop ends every process; a restart leaves them to the next daemon.

import { endAll } from "./processes/supervisor.js";
import type { Table } from "./processes/table.js";
import { isRestart, stopTimeoutMs } from "./runtime/job.js";
import type { Unit } from "./runtime/settings.js";
import { LONGEST_TIMER_MS } from "./runtime/slices.js";
import type { Manager } from "./runtime/systemd.js";
import type { Survivor } from "./tree/ladder.js";

/** What is left of a stop's time for KILL, last replies and the exit. */
const RESERVE_MS = 10_000;

type House = { table: Table; manager: Manager; unit: Unit };

/** `left`: processes run on. `ended`: none lives any more, but for the survivors that the log names. */
export type Departure = { how: "left" } | { how: "ended"; survivors: number };

/** Begin to go, start nothing any more, and do with the processes what the manager's job asks for. */
export async function depart(house: House): Promise<Departure> {
  const { table, manager, unit } = house;
  const { log } = table;
  table.closing = true;
  manager.tell("STOPPING=1");
  if (unit.notifySocket !== null && (await isRestart())) {
    log.info("left", { living: table.living });
    return { how: "left" };
  }
  table.ending = true;
  const survivors = (await endAllInTime(house)).length;
  log.info("stopped", { survivors });
  return { how: "ended", survivors };
}

/** Told to go once more: KILL, but for those that are to run on, as all are until it is known what is asked for. */
export async function hurry(table: Table): Promise<void> {
  if (table.ending) await endAll(table, { force: true });
}

/** Gracefully for as long as the manager lets us, then with KILL: it would send that to us alone. */
async function endAllInTime({ table, unit }: House): Promise<Survivor[]> {
  const done = endAll(table, { force: false });
  if (unit.notifySocket === null) return done;
  const timeoutMs = await stopTimeoutMs().catch((error: Error) => {
    table.log.warning("cannot learn TimeoutStopSec", { error: error.message });
    return Number.POSITIVE_INFINITY;
  });
  if (!Number.isFinite(timeoutMs)) return done;
  const force = () => {
    table.log.warning("the time for a stop is running out: forcing", { timeoutMs });
    void endAll(table, { force: true }); // joins the ladders of `done`, which tells how they ended
  };
  const waitMs = Math.max(timeoutMs - RESERVE_MS, timeoutMs / 2);
  if (waitMs > LONGEST_TIMER_MS) return done;
  const timer = setTimeout(force, waitMs);
  return done.finally(() => clearTimeout(timer));
}
