// The sweep: `procsupd --sweep`, which systemd runs after the daemon's death (ExecStopPost=) and people by
// hand. Where nobody will take the processes up again it ends them, as the daemon would have.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { Refusal } from "../client/wire.js";
import { cgroups } from "./cgroup.js";
import { cgroupFolder } from "./choose.js";
import type { Containing } from "./containment.js";
import { groups } from "./group.js";
import { isOver } from "./job.js";
import { CannotStart, claimState } from "./listen.js";
import type { Log } from "./log.js";
import type { Settings, Unit } from "./settings.js";
import { strays } from "./strays.js";
import { createTable, type Table } from "./table.js";
import { createTags, type Tags } from "./tag.js";

/** Graces are not known here; with KILL this must fit into half a TimeoutStopSec. */
const GRACE_MS = 10_000;

/**
 * End what is left, unless a daemon lives or is about to. True unless something survives or the manager
 * cannot be asked; the log says which.
 */
export async function sweep(settings: Settings, unit: Unit, log: Log): Promise<boolean> {
  try {
    if (!(await isOver(unit.result))) return true;
    const table = emptyTable(settings, createTags(claimState(settings.state)), log);
    const found = await strays(table, { end: true, force: false, graceMs: GRACE_MS });
    await table.containing.close();
    if (found.ended > 0) log.warning("swept", { ended: found.ended });
    return true;
  } catch (error) {
    if (error instanceof CannotStart) {
      log.info("not swept", { why: error.message });
      return true;
    }
    const { message } = error as Error;
    log.error(error instanceof Refusal ? message : "cannot sweep", { error: message });
    return false;
  }
}

/** One that knows no process: so that whatever bears our signs is a stray. */
function emptyTable(settings: Settings, tags: Tags, log: Log): Table {
  const { socket, state, historyCount, historyAgeMs, historyBytes } = settings;
  const containing = existingCgroups(tags) ?? groups(tags, socket);
  const output = { path: join(state, "output") };
  const parts = { log, output, containing, tags, socket, publish: () => undefined };
  return createTable(parts, { historyCount, historyAgeMs, historyBytes });
}

function existingCgroups(tags: Tags): Containing | null {
  try {
    const folder = cgroupFolder(tags);
    return existsSync(folder) ? cgroups(folder) : null;
  } catch {
    return null; // no cgroup v2 is mounted
  }
}
