// Where the daemon's settings come from: flag beats environment beats file beats default. The only
// reader of process.argv and process.env; the result is frozen and nobody asks twice.

import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import * as v from "valibot";
import { defaultSocket } from "../../client/socket.js";
import { limits } from "../../client/wire.js";

const logLevels = ["error", "warning", "info", "debug"] as const;

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/** What a stream of output may at least take: blocks are freed whole, and a line should be left. */
export const LEAST_OUTPUT_BYTES = 64 * 1024;

const NO_SIZE = "must be a whole number of bytes";
const TOO_SMALL = `must be at least ${LEAST_OUTPUT_BYTES}; to keep nothing, spawn with output "null"`;
const outputBytes = v.pipe(
  v.number(NO_SIZE),
  v.safeInteger(NO_SIZE),
  v.minValue(LEAST_OUTPUT_BYTES, TOO_SMALL),
);

/** Made absolute: children are told of it, wherever they stand. */
const place = v.pipe(
  v.string(),
  v.nonEmpty("must not be empty"),
  v.check(canResolve, "is relative to a folder that is gone: let it begin with /"),
  v.transform((given) => resolve(given)),
);

function canResolve(given: string): boolean {
  try {
    return resolve(given) !== "";
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}

/** What valibot takes lists for too. */
const anObject = v.custom<Record<string, unknown>>(
  (given) => typeof given === "object" && given !== null && !Array.isArray(given),
  "must be an object",
);

/** An object of these settings and no others. */
function settingsOf<const T extends v.ObjectEntries>(entries: T) {
  const message = `is no setting; known are ${Object.keys(entries).join(", ")}`;
  return v.pipe(anObject, v.strictObject(entries, message));
}

/** The file of `--config`: JSON, every field optional. */
const fileShape = settingsOf({
  socket: v.optional(place),
  state: v.optional(place),
  containment: v.optional(v.picklist(["auto", "cgroup", "group"])),
  logLevel: v.optional(v.picklist(logLevels)),
  /** How much of each stream of output is kept: its newest bytes. */
  outputBytes: v.optional(outputBytes),
  /** How many ended processes are remembered, for how long, and in how many bytes. */
  historyCount: v.optional(count),
  historyAgeMs: v.optional(count),
  historyBytes: v.optional(count),
  /** How many faults of one program are answered in a second before it is kept waiting. */
  faultsPerSecond: v.optional(v.pipe(count, v.minValue(1))),
  /** Whose members control every process: name or number of a group. */
  adminGroup: v.optional(v.string()),
  /** What users may take, by name or number, `*` for all others. */
  users: v.optional(
    v.pipe(
      anObject,
      v.record(
        v.string(),
        settingsOf({
          barred: v.exactOptional(v.boolean()),
          processes: v.exactOptional(count),
          spawnsPerMinute: v.exactOptional(count),
        }),
      ),
    ),
  ),
});

export type Settings = Readonly<{
  socket: string;
  state: string;
  containment: "auto" | "cgroup" | "group";
  logLevel: (typeof logLevels)[number];
  outputBytes: number;
  historyCount: number;
  historyAgeMs: number;
  historyBytes: number;
  faultsPerSecond: number;
  adminGroup: string | null;
  users: NonNullable<v.InferOutput<typeof fileShape>["users"]>;
  /** Do not serve: end what a daemon has left. */
  sweep: boolean;
}>;

/** A setting that cannot be used; the message names it and the fix, and is all the user needs. */
export class BadSetting extends Error {}

export const usage = `Usage: procsupd [options]

  --socket PATH        where to listen               (PROCSUP_SOCKET)
  --state DIR          where journal and output are  (PROCSUP_STATE)
  --containment KIND   auto, cgroup or group         (PROCSUP_CONTAINMENT)
  --log-level LEVEL    error, warning, info, debug   (PROCSUP_LOG_LEVEL)
  --output-bytes N     kept of each stream, its newest; 67108864 unless set
                                                     (PROCSUP_OUTPUT_BYTES)
  --config FILE        JSON with these and more,     (PROCSUP_CONFIG)
                       in camelCase: see README.md
  --sweep              end what a daemon that is gone has left, unless another is about to start
  --version, --help
`;

type Environment = Readonly<Record<string, string | undefined>>;

/** What the service manager has handed over, nothing where there is none. */
export type Unit = Readonly<{
  /** Where it takes messages: a path, or an abstract name as `@name`. man 3 sd_notify. */
  notifySocket: string | null;
  /** How often it wants to hear that the main loop turns. man 3 sd_watchdog_enabled. */
  watchdogMs: number | null;
  /** Open descriptors by name, sockets that we are to serve among them. man 3 sd_listen_fds. */
  fds: ReadonlyMap<string, readonly number[]>;
  /** In ExecStopPost= only: how it found the daemon to have ended. man 5 systemd.exec. */
  result: string | null;
}>;

/** Read once, for process `pid`: what was meant for its parent is not for it. */
export function readUnit(env: Environment, pid: number): Unit {
  const notifySocket = env["NOTIFY_SOCKET"] ?? "";
  const isForUs = (name: string) => env[name] === undefined || env[name] === String(pid);
  const watchdogUs = isForUs("WATCHDOG_PID") ? wholeOr(env["WATCHDOG_USEC"], 0) : 0;
  return {
    notifySocket: /^[/@]./.test(notifySocket) ? notifySocket : null,
    watchdogMs: watchdogUs > 0 ? watchdogUs / 1000 : null,
    fds: env["LISTEN_PID"] === String(pid) ? passedFds(env) : new Map(),
    result: env["SERVICE_RESULT"] ?? null,
  };
}

/** They start at 3, in the order of their names. */
function passedFds(env: Environment): Map<string, number[]> {
  const FIRST = 3;
  const names = (env["LISTEN_FDNAMES"] ?? "").split(":");
  const fds = new Map<string, number[]>();
  for (let at = 0; at < wholeOr(env["LISTEN_FDS"], 0); at++) {
    const name = names[at] || "unknown";
    fds.set(name, [...(fds.get(name) ?? []), FIRST + at]);
  }
  return fds;
}

function wholeOr(text: string | undefined, otherwise: number): number {
  return text !== undefined && /^[0-9]{1,15}$/.test(text) ? Number(text) : otherwise;
}

/**
 * Settings from the command line and the environment; "help" or "version" when that was asked for.
 * Throws BadSetting, naming the setting and its source.
 */
export function readSettings(
  argv: readonly string[],
  env: Environment,
): Settings | "help" | "version" {
  const flags = parseFlags(argv);
  if (flags.help) return "help";
  if (flags.version) return "version";
  const given = withoutEmpty(env);
  return flags.sweep ? readForSweep(flags, given) : read(flags, given);
}

/** Set to nothing counts as not set: so the XDG Base Directory Specification has it, and our client. */
function withoutEmpty(env: Environment): Environment {
  return Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ""));
}

type Flags = ReturnType<typeof parseFlags>;

/** The variables that say where things are. */
const PLACES = ["PROCSUP_SOCKET", "PROCSUP_STATE", "HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"];

/** What keeps a daemon from starting must not keep its processes from being ended: then just where. */
function readForSweep(flags: Flags, env: Environment): Settings {
  try {
    return read(flags, env);
  } catch (error) {
    if (!(error instanceof BadSetting)) throw error;
    const { sweep = false, socket, state } = flags;
    const where = { sweep, ...(socket && { socket }), ...(state && { state }) };
    const places = Object.fromEntries(PLACES.map((name) => [name, env[name]]));
    return settle(where, places, placesInFile(configOf(flags, env)));
  }
}

function read(flags: Flags, env: Environment): Settings {
  const path = configOf(flags, env);
  return settle(flags, env, path === undefined ? {} : check(readFile(path), path));
}

function configOf(flags: Flags, env: Environment): string | undefined {
  return flags.config ?? env["PROCSUP_CONFIG"];
}

/** Throws BadSetting for what cannot be used, and for a place that nothing names. */
function settle(flags: Flags, env: Environment, file: File): Settings {
  const chosen = choose(flags, env, file);
  if (chosen.socket === null) {
    throw new BadSetting("XDG_RUNTIME_DIR is not set: say where to listen with --socket PATH");
  }
  if (chosen.state === null) {
    throw new BadSetting("HOME is not set: say where to keep output with --state DIR");
  }
  const { adminGroup = null, ...settings } = check(chosen, "settings");
  const sweep = flags.sweep ?? false;
  return Object.freeze({ ...settings, adminGroup, sweep } as Settings);
}

type File = v.InferOutput<typeof fileShape>;

function choose(flags: Flags, env: Environment, file: File) {
  return {
    socket: flags.socket ?? env["PROCSUP_SOCKET"] ?? file.socket ?? defaultSocket(env),
    state: flags.state ?? env["PROCSUP_STATE"] ?? file.state ?? defaultState(env),
    containment: flags.containment ?? env["PROCSUP_CONTAINMENT"] ?? file.containment ?? "auto",
    logLevel: flags["log-level"] ?? env["PROCSUP_LOG_LEVEL"] ?? file.logLevel ?? "info",
    outputBytes:
      size(flags["output-bytes"] ?? env["PROCSUP_OUTPUT_BYTES"]) ??
      file.outputBytes ??
      64 * 1024 * 1024,
    historyCount: file.historyCount ?? 1_000,
    historyAgeMs: file.historyAgeMs ?? 24 * 60 * 60 * 1000,
    historyBytes: file.historyBytes ?? 8 * 1024 * 1024,
    faultsPerSecond: file.faultsPerSecond ?? limits.faultsPerSecond,
    adminGroup: file.adminGroup,
    users: file.users ?? {},
  };
}

/** Digits alone: `Number` would take an empty flag for 0, which is an answer to another question. */
function size(typed: string | undefined): number | undefined {
  if (typed === undefined) return undefined;
  return /^[0-9]+$/.test(typed) ? Number(typed) : Number.NaN;
}

function parseFlags(argv: readonly string[]) {
  const text = { type: "string" } as const;
  const flag = { type: "boolean" } as const;
  try {
    return parseArgs({
      args: [...argv],
      options: {
        socket: text,
        state: text,
        containment: text,
        "log-level": text,
        "output-bytes": text,
        config: text,
        sweep: flag,
        version: flag,
        help: flag,
      },
    }).values;
  } catch (cause) {
    throw new BadSetting(`${(cause as Error).message}\n\n${usage}`, { cause });
  }
}

function readFile(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new BadSetting(`cannot read --config ${path}: ${(cause as Error).message}`, { cause });
  }
}

/** The places that a file names, whatever else in it is wrong: elsewhere there is nothing to sweep. */
function placesInFile(path: string | undefined): File {
  if (path === undefined) return {};
  try {
    const { socket, state } = v.parse(anObject, readFile(path));
    return { ...(v.is(place, socket) && { socket }), ...(v.is(place, state) && { state }) };
  } catch (error) {
    if (error instanceof BadSetting || error instanceof v.ValiError) return {};
    throw error;
  }
}

function check(raw: unknown, source: string): File {
  const result = v.safeParse(fileShape, raw);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const name = v.getDotPath(issue);
  throw new BadSetting(`${source}: ${name === null ? "" : `${name}: `}${issue.message}`);
}

function defaultState(env: Environment): string | null {
  if (process.getuid?.() === 0) return "/var/lib/procsup";
  const home = env["HOME"];
  const base = env["XDG_STATE_HOME"] ?? (home === undefined ? null : join(home, ".local/state"));
  return base === null ? null : join(base, "procsup");
}
