// What people type: targets, durations, signal names and settings, read into the words of the
// contract. Every refusal names what was typed and what would do.

import { isUtf8 } from "node:buffer";
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { isAbsolute, resolve } from "node:path";
import { InvalidArgumentError } from "commander";
import * as v from "valibot";
import { ownEnvironment, ownFolder } from "../environment.js";
import {
  type Address,
  idPattern,
  limits,
  methods,
  type OutputMode,
  type Params,
  Refusal,
  type Signal,
  signals,
} from "../wire.js";

/** A number is a pid, an id is an id, everything else a name. */
export function readTarget(typed: string): Address {
  if (/^[0-9]+$/.test(typed)) return { pid: Number(typed) };
  return idPattern.test(typed) ? { id: typed } : { name: typed };
}

/** What can be a target. */
export function checkTarget(typed: string): string {
  if (v.is(methods.status.params, readTarget(typed))) return typed;
  throw new InvalidArgumentError("Expected a pid, an id or a name.");
}

/** All that were typed, each of them once: whoever is named twice is meant once. */
export function checkTargets(typed: string, before: readonly string[] = []): string[] {
  return [...new Set([...before, checkTarget(typed)])];
}

/** Could be the beginning of an id: enough of it, and not all. */
export function isIdPrefix(typed: string): boolean {
  return /^p[0-9a-f]{2,11}$/.test(typed);
}

/** The options of `start`, as they are typed. */
export type Start = {
  name?: string;
  cwd?: string;
  env?: Record<string, string>;
  clearEnv?: boolean;
  user?: string;
  stopSignal?: Signal;
  grace?: number;
  output?: OutputMode;
  strays?: "end" | "keep";
};

/**
 * What to spawn: with this program's environment and in its folder, but for what the options say. Another
 * user is given nothing but PATH of these, and without options begins as at login.
 */
export function readStart(command: string[], options: Start): Params<"spawn"> {
  checkText();
  const { name, user, stopSignal, grace, output, strays } = options;
  const surroundings = { cwd: folderOf(options), env: environmentOf(options) };
  const given = { name, user, stopSignal, graceMs: grace, output, strays, ...surroundings };
  const set = Object.entries(given).filter(([, value]) => value !== undefined);
  return { command, ...Object.fromEntries(set) };
}

/** Node makes U+FFFD of what is no UTF-8, and then another file would be meant. Refusal: `invalid_params`. */
function checkText(): void {
  if (isUtf8(readFileSync("/proc/self/cmdline"))) return;
  const message = "spawn: command: it holds bytes that are no UTF-8, which no JSON can say";
  throw new Refusal("invalid_params", message, { field: "command" });
}

function folderOf({ cwd, user }: Start): string | undefined {
  if (cwd === undefined) return user === undefined ? ownFolder() : undefined;
  return isAbsolute(cwd) ? resolve(cwd) : resolve(ownFolder(), cwd);
}

function environmentOf({ env, clearEnv, user }: Start): Record<string, string> | undefined {
  if (clearEnv) return { ...env };
  const own = ownEnvironment();
  if (user === undefined) return { ...own, ...env };
  const path = own["PATH"] === undefined ? {} : { PATH: own["PATH"] };
  return env === undefined ? undefined : { ...path, ...env };
}

const units: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** `500ms`, `10s`, `2m`, `1h`; a bare number means seconds, as with docker stop. */
export function readDurationMs(typed: string): number {
  const [, amount = "", unit = "s"] = /^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?$/.exec(typed) ?? [];
  const durationMs = Math.round(Number(amount) * (units[unit] ?? 0));
  if (amount === "" || durationMs > limits.waitMs) {
    throw new InvalidArgumentError("Expected a duration of at most a day, like 500ms, 10s or 2m.");
  }
  return durationMs;
}

/** `TERM`, `SIGTERM`, `term` or a number. */
export function readSignal(typed: string): Signal {
  const upper = typed.toUpperCase();
  const numbered = Number.isInteger(Number(typed)) ? nameOf(Number(typed)) : undefined;
  const found = signals.find((name) => name === upper || name === `SIG${upper}`) ?? numbered;
  if (found === undefined) {
    throw new InvalidArgumentError("Expected a signal like TERM, SIGTERM or 15.");
  }
  return found;
}

/** The first name of a signal number; undefined when Linux has no such signal. */
function nameOf(number: number): Signal | undefined {
  return signals.find((name) => constants.signals[name] === number);
}

/** `NAME=VALUE`, collected over repetitions of the option. */
export function readEnv(
  typed: string,
  before: Readonly<Record<string, string>> = {},
): Record<string, string> {
  const at = typed.indexOf("=");
  if (at < 1) throw new InvalidArgumentError("Expected NAME=VALUE.");
  return { ...before, [typed.slice(0, at)]: typed.slice(at + 1) };
}

/** A whole number, zero included. */
export function readCount(typed: string): number {
  if (!/^[0-9]+$/.test(typed)) throw new InvalidArgumentError("Expected a whole number.");
  return Number(typed);
}

/** One of a few words. */
export function oneOf<const W extends string>(...words: W[]): (typed: string) => W {
  return (typed) => {
    const word = words.find((candidate) => candidate === typed);
    if (word === undefined) throw new InvalidArgumentError(`Expected ${words.join(", ")}.`);
    return word;
  };
}

/** Whether it stands among our own arguments: behind `--` are those of a command to run. */
export function isGiven(flag: string, typed: readonly string[]): boolean {
  const end = typed.indexOf("--");
  return (end < 0 ? typed : typed.slice(0, end)).includes(flag);
}
