// What SIGHUP does: settings are read anew, and those that can change under a running daemon take
// effect. No process and no connection is touched.

import { type History, setBounds } from "./life/history.js";
import type { Log } from "./runtime/log.js";
import { BadSetting, type Settings } from "./runtime/settings.js";
import { type Manager, reloading } from "./runtime/systemd.js";

type House = { log: Log; history: History; manager: Manager };

/** As readSettings; the words stand for flags that end the program, and do not occur here. */
type Read = () => Settings | "help" | "version";

/** What is fixed for as long as the daemon lives. */
const fixed = [
  "socket",
  "state",
  "containment",
  "outputBytes",
  "faultsPerSecond",
  "adminGroup",
  "users",
] as const;

/**
 * Read settings again with `read`. A setting that cannot be used is logged and leaves all of them as
 * they are. Returns those now in force.
 */
export function reload(house: House, before: Settings, read: Read): Settings {
  const { log, manager } = house;
  manager.tell(...reloading());
  const now = tryRead(log, read) ?? before;
  log.setLevel(now.logLevel);
  const { historyCount, historyAgeMs, historyBytes } = now;
  setBounds(house.history, { historyCount, historyAgeMs, historyBytes });
  for (const name of fixed) {
    const setting = JSON.stringify(now[name]);
    if (setting === JSON.stringify(before[name])) continue;
    log.warning(`a new ${name} takes effect at the next start`, { setting });
  }
  if (now !== before) log.info("reloaded", { logLevel: now.logLevel });
  manager.tell("READY=1");
  return Object.freeze({
    ...now,
    ...Object.fromEntries(fixed.map((name) => [name, before[name]])),
  });
}

function tryRead(log: Log, read: Read): Settings | null {
  try {
    const now = read();
    return typeof now === "string" ? null : now;
  } catch (error) {
    if (!(error instanceof BadSetting)) throw error;
    log.error("cannot reload, the old settings stay", { error: error.message });
    return null;
  }
}
