// What a command is given of its caller's environment: one rule for client and CLI.

import { refusedVariables } from "./wire.js";

/** What this program can hand on of its environment: the contract knows some names that it refuses. */
export function ownEnvironment(): Record<string, string> {
  const set = Object.entries(process.env).filter((entry): entry is [string, string] => {
    return entry[1] !== undefined && !refusedVariables.includes(entry[0]);
  });
  return Object.fromEntries(set);
}
