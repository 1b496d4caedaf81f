// The sweep: `procsupd --sweep`, which systemd runs after the daemon's death (ExecStopPost=) and people by
// hand. Where nobody will take the processes up again it ends them, as the daemon would have.

import { existsSync } from "node:fs";
import { Refusal } from "../client/wire.js";
import { seesAll } from "./processes/access.js";
import { createLookout, type Known, strays } from "./processes/strays.js";
import { CannotStart, claimState } from "./runtime/claim.js";
import { isOver } from "./runtime/job.js";
import { checkUnclaimed } from "./runtime/listen.js";
import type { Log } from "./runtime/log.js";
import type { Settings, Unit } from "./runtime/settings.js";
import { cgroups } from "./tree/cgroup.js";
import { cgroupFolder } from "./tree/choose.js";
import type { Containing } from "./tree/containment.js";
import { groups } from "./tree/group.js";
import { createTags, type Tags } from "./tree/tag.js";

/** Graces are not known here; with KILL this must fit into half a TimeoutStopSec. */
const GRACE_MS = 10_000;

/**
 * End what is left, unless a daemon lives or is about to. True unless something survives or the manager
 * cannot be asked; the log says which.
 */
export async function sweep(settings: Settings, unit: Unit, log: Log): Promise<boolean> {
  try {
    if (!(await isOver(unit.result))) return true;
    const tags = createTags(claimState(settings.state));
    // Its processes bear the mark of the same socket. One that systemd passes is claimed by nobody.
    checkUnclaimed(settings.socket);
    const known = nobody(settings, tags);
    const wish = { end: true, force: false, graceMs: GRACE_MS };
    const found = await strays(createLookout(known), wish, seesAll);
    await known.containing.close();
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

/** No process is known: so whatever bears our signs is a stray, whether the journal can be read or not. */
function nobody({ socket }: Settings, tags: Tags): Known {
  const containing = existingCgroups(tags) ?? groups(tags, socket);
  return { containing, tags, socket, entries: new Map() };
}

function existingCgroups(tags: Tags): Containing | null {
  try {
    const folder = cgroupFolder(tags);
    return existsSync(folder) ? cgroups(folder) : null;
  } catch {
    return null; // no cgroup v2 is mounted
  }
}
