// Where the daemon listens when nobody says otherwise: one rule for daemon, client and CLI.

import { join } from "node:path";

/** `/run/procsup.sock` for root, `$XDG_RUNTIME_DIR/procsup.sock` otherwise; null when that is unset. */
export function defaultSocket(env: Readonly<Record<string, string | undefined>>): string | null {
  if (process.getuid?.() === 0) return "/run/procsup.sock";
  const folder = env["XDG_RUNTIME_DIR"];
  return folder === undefined || folder === "" ? null : join(folder, "procsup.sock");
}
