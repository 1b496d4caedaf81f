// The contract of procsup, wire version 1: the methods, made of the shapes and refusals beside this
// file. Types, validation, the OpenRPC document and the client are all derived from it; it knows
// nothing of sockets, of the daemon or of the CLI.
//
// Wire history
//   1  first version

import * as v from "valibot";
import { type Kind, limits } from "./refusal.js";
import {
  command,
  containment,
  cwd,
  durationMs,
  env,
  id,
  integer,
  load,
  member,
  name,
  outputModes,
  pid,
  processEntries,
  processShape,
  signal,
  status,
  stray,
  stream,
  terminated,
  text,
  timestamp,
  wholeNumber,
} from "./shapes.js";

export { type Kind, kinds, type Limits, limits, Refusal } from "./refusal.js";
export {
  type ContainmentKind,
  type Event,
  idPattern,
  type Member,
  type OutputMode,
  outputModes,
  type Process,
  refusedVariables,
  type Signal,
  type Status,
  type Stray,
  type Stream,
  signals,
  statuses,
} from "./shapes.js";

export const WIRE_VERSION = 1;

type Addressed = { pid?: unknown; id?: unknown; name?: unknown };

function addresses(input: Addressed): number {
  return [input.pid, input.id, input.name].filter((part) => part !== undefined).length;
}

const address = { pid: v.optional(pid), id: v.optional(id), name: v.optional(name) };

function addressed<E extends v.ObjectEntries>(entries: E) {
  return v.pipe(
    v.strictObject({ ...address, ...entries }),
    v.check((input) => addresses(input) === 1, "give exactly one of pid, id, name"),
  );
}

/** Any call: the daemon has no descriptor left for it, or the line that answers its batch no room. */
const ofAny = ["limit_exceeded"] as const;
/** Whatever says which process it means. */
const ofAddress = [...ofAny, "process_not_found", "permission_denied"] as const;

type Contract = {
  readonly summary: string;
  readonly params: v.GenericSchema & { readonly entries: v.ObjectEntries };
  readonly result: v.GenericSchema;
  readonly refusals: readonly Kind[];
};

export const methods = {
  spawn: {
    summary: "Run a command in a group of its own, detached from caller and daemon.",
    params: v.strictObject({
      command: v.pipe(
        command,
        v.check(
          (argv) => Buffer.byteLength(JSON.stringify(argv)) <= limits.commandBytes,
          `must be at most ${limits.commandBytes} bytes long`,
        ),
      ),
      name: v.optional(name),
      cwd: v.optional(cwd, "/"),
      env: v.optional(env),
      user: v.optional(v.pipe(text, v.description("run as this user; root callers only"))),
      stopSignal: v.optional(signal, "SIGTERM"),
      graceMs: v.optional(durationMs, 10_000),
      output: v.optional(
        v.pipe(
          v.picklist(outputModes),
          v.description("split, merged: files for `logs`; journal: to journald, under its name"),
        ),
        "split",
      ),
      strays: v.optional(
        v.pipe(
          v.picklist(["end", "keep"]),
          v.description("what becomes of the rest of the tree when the leader ends by itself"),
        ),
        "end",
      ),
    }),
    result: processShape,
    refusals: [...ofAny, "spawn_failed", "name_taken", "permission_denied", "shutting_down"],
  },
  terminate: {
    summary: "End the whole tree: stop signal, grace, KILL, proof.",
    params: addressed({
      force: v.optional(v.pipe(v.boolean(), v.description("KILL at once, also in a grace")), false),
      graceMs: v.optional(durationMs),
      wait: v.optional(v.boolean(), true),
      dryRun: v.optional(
        v.pipe(v.boolean(), v.description("say who would be ended, and do nothing")),
        false,
      ),
    }),
    result: terminated,
    refusals: [...ofAddress, "already_terminated", "termination_failed"],
  },
  signal: {
    summary: "Send one signal to the leader or to every member of the tree.",
    params: addressed({ signal, to: v.optional(v.picklist(["leader", "tree"]), "leader") }),
    result: v.strictObject({ signaled: wholeNumber }),
    refusals: [...ofAddress, "already_terminated"],
  },
  pause: {
    summary: "Keep every member of the tree from running, until it is resumed.",
    params: addressed({}),
    result: processShape,
    refusals: [...ofAddress, "already_terminated"],
  },
  resume: {
    summary: "Let a paused tree go on (SIGCONT).",
    params: addressed({}),
    result: processShape,
    refusals: [...ofAddress, "already_terminated"],
  },
  list: {
    summary: "The living processes, oldest first; with `all` or an ended `status` the ended ones.",
    params: v.strictObject({
      status: v.optional(status),
      all: v.optional(v.boolean(), false),
      after: v.optional(v.pipe(id, v.description("go on behind this id: the `next` of a page"))),
    }),
    result: v.strictObject({
      processes: v.array(processShape),
      next: v.pipe(v.nullable(id), v.description("not null: the answer would pass the line limit")),
    }),
    refusals: ofAddress,
  },
  status: {
    summary: "One process with its living members.",
    params: addressed({}),
    result: v.strictObject({ ...processEntries, members: v.array(member) }),
    refusals: ofAddress,
  },
  wait: {
    summary: "Answer when the process has ended, or when the time is over.",
    params: addressed({ timeoutMs: v.optional(durationMs) }),
    result: v.strictObject({ ended: v.boolean(), process: processShape }),
    refusals: ofAddress,
  },
  logs: {
    summary: "Read output by byte offset, or its last lines.",
    params: v.pipe(
      addressed({
        stream: v.optional(stream, "stdout"),
        from: v.optional(v.pipe(wholeNumber, v.description("byte offset"))),
        tailLines: v.optional(
          v.pipe(
            wholeNumber,
            v.description("the last so many lines, or fewer: as many as begin in the last 8 MiB"),
          ),
        ),
        maxBytes: v.optional(
          v.pipe(integer, v.minValue(4), v.maxValue(limits.logBytes)),
          64 * 1024,
        ),
      }),
      v.check(
        (input) => input.from === undefined || input.tailLines === undefined,
        "give from or tailLines, not both",
      ),
    ),
    result: v.strictObject({
      text: v.string(),
      from: wholeNumber,
      next: wholeNumber,
      oldest: wholeNumber,
      ended: v.pipe(
        v.boolean(),
        v.description("the process has ended and nothing lies behind next"),
      ),
    }),
    refusals: ofAddress,
  },
  usage: {
    summary: "CPU and memory of the leader, and totals of the tree, measured now.",
    params: addressed({}),
    result: v.strictObject({
      id,
      pid,
      leader: v.pipe(v.nullable(load), v.description("null: the leader is gone, strays live")),
      tree: v.strictObject({ members: wholeNumber, ...load.entries }),
      timestamp,
    }),
    refusals: [...ofAddress, "already_terminated"],
  },
  subscribe: {
    summary: "Be sent an `event` notification at each change of status and, if asked, output.",
    params: v.pipe(
      v.strictObject({ ...address, output: v.optional(v.boolean(), false) }),
      v.check((input) => addresses(input) <= 1, "give at most one of pid, id, name"),
      v.check(
        (input) => !input.output || addresses(input) === 1,
        "output needs one of pid, id, name",
      ),
    ),
    result: v.strictObject({ subscription: v.string() }),
    refusals: [...ofAddress, "invalid_request"],
  },
  unsubscribe: {
    summary: "End a subscription of this connection.",
    params: v.strictObject({ subscription: v.string() }),
    result: v.strictObject({ unsubscribed: v.boolean() }),
    refusals: ofAny,
  },
  strays: {
    summary: "Living processes that bear our signs and belong to no known process; end them.",
    params: v.strictObject({
      end: v.optional(v.boolean(), false),
      force: v.optional(v.boolean(), false),
      graceMs: v.optional(durationMs),
    }),
    result: v.strictObject({ strays: v.array(stray), ended: wholeNumber }),
    refusals: [...ofAny, "termination_failed"],
  },
  info: {
    summary: "The daemon: version, containment in force, kernel features, counts and limits.",
    params: v.strictObject({}),
    result: v.strictObject({
      version: v.string(),
      wire: wholeNumber,
      pid,
      uptimeMs: wholeNumber,
      containment,
      kernel: v.record(v.string(), v.union([v.boolean(), v.string()])),
      counts: v.record(status, wholeNumber),
      strays: wholeNumber,
      limits: v.record(v.string(), wholeNumber),
    }),
    refusals: ofAny,
  },
  "rpc.discover": {
    summary: "This contract as an OpenRPC document.",
    params: v.strictObject({}),
    result: v.record(v.string(), v.unknown()),
    refusals: ofAny,
  },
} as const satisfies Record<string, Contract>;

export type Method = keyof typeof methods;
/** What a caller may give. */
export type Params<M extends Method> = v.InferInput<(typeof methods)[M]["params"]>;
/** What a handler gets: validated, defaults filled in. */
export type Checked<M extends Method> = v.InferOutput<(typeof methods)[M]["params"]>;
export type Result<M extends Method> = v.InferOutput<(typeof methods)[M]["result"]>;

export type Address = Pick<Checked<"status">, "pid" | "id" | "name">;
