// What a command is given of its caller's surroundings: one rule for client and CLI.

import { Refusal, refusedVariables } from "./wire.js";

/** The folder that this program is in. Refusal: `invalid_params` when that was removed. */
export function ownFolder(): string {
  try {
    return process.cwd();
  } catch (error) {
    throw whyNowhere(error as NodeJS.ErrnoException);
  }
}

function whyNowhere(error: NodeJS.ErrnoException): Error {
  if (error.code !== "ENOENT") return error;
  const message = "spawn: cwd: the folder that this program is in was removed: name another";
  return new Refusal("invalid_params", message, { field: "cwd" }, { cause: error });
}

/** What this program can hand on of its environment: the contract knows some names that it refuses. */
export function ownEnvironment(): Record<string, string> {
  const set = Object.entries(process.env).filter((entry): entry is [string, string] => {
    return entry[1] !== undefined && !refusedVariables.includes(entry[0]);
  });
  return Object.fromEntries(set);
}
