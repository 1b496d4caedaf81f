// The shapes of the contract as valibot schemas: what a pid, a name, a Process or an event looks like.

import { constants } from "node:os";
import * as v from "valibot";
import { limits } from "./refusal.js";

export type Signal = NodeJS.Signals;

/** Signal names as `man 7 signal` has them, without the real-time ones. */
export const signals = Object.keys(constants.signals) as [Signal, ...Signal[]];

export const text = v.pipe(
  v.string(),
  v.check((input) => !input.includes("\0"), "must not contain a NUL byte"),
  v.check(
    (input) => !/\p{Surrogate}/u.test(input),
    "must not contain half of a character (a lone surrogate)",
  ),
);
export const integer = v.pipe(
  v.number(),
  v.safeInteger("must be a whole number, of at most 2^53 - 1"),
);
export const wholeNumber = v.pipe(integer, v.minValue(0));
export const durationMs = v.pipe(integer, v.minValue(0), v.maxValue(limits.waitMs));
export const timestamp = v.pipe(v.string(), v.description("ISO 8601, UTC, with milliseconds"));
export const signal = v.picklist(signals);
export const stream = v.picklist(["stdout", "stderr"]);
export const pid = v.pipe(integer, v.minValue(1), v.maxValue(2 ** 31 - 1));

/** An id is minted by the daemon; a name can never be mistaken for one, nor for a pid. */
export const idPattern = /^p[0-9a-f]{12}$/;
export const id = v.pipe(
  v.string(),
  v.regex(idPattern, "must be an id: p and 12 hexadecimal digits"),
);
export const name = v.pipe(
  v.string(),
  v.regex(
    /^[A-Za-z_][A-Za-z0-9_.-]{0,63}$/,
    "must start with a letter or _ and hold at most 64 letters, digits, _ . -",
  ),
  v.check((input) => !idPattern.test(input), "must not look like an id"),
);

const envKey = v.pipe(
  text,
  v.check((key) => key !== "" && !key.includes("="), "names must be non-empty and without ="),
);
/** Names that `v.record` passes over without a word. */
export const refusedVariables = ["__proto__", "constructor", "prototype"];
/** Checked before `v.record` makes an object of its own of it; so its JSON Schema is told apart. */
export const env = v.pipe(
  v.custom<Record<string, string>>(() => true),
  v.metadata({ type: "object", additionalProperties: { type: "string" } }),
  v.check((input) => !Array.isArray(input), "must be an object, not an array"),
  v.check(
    (input) => !refusedVariables.some((key) => Object.hasOwn(Object(input), key)),
    `must not hold ${refusedVariables.join(", ")}`,
  ),
  v.record(envKey, text),
);
export const command = v.pipe(
  v.array(text),
  v.minLength(1, "must name a program"),
  v.check((argv) => argv[0] !== "", "must name a program"),
  v.description("argv; never a shell string"),
);
export const cwd = v.pipe(
  text,
  v.check((path) => path.startsWith("/"), "must be an absolute path"),
  // PATH_MAX of linux/limits.h, without the NUL.
  v.check((path) => Buffer.byteLength(path) < 4096, "must be at most 4095 bytes long"),
);

export const statuses = [
  "starting",
  "running",
  "stopping",
  "exited",
  "terminated",
  "failed",
  "lost",
] as const;
export const status = v.pipe(
  v.picklist(statuses),
  v.description("exited: by itself; terminated: asked to; failed: never ran; lost: gone unseen"),
);
/** Where output goes: to files for `logs`, one a stream or one for both; nowhere; to journald. */
export const outputModes = ["split", "merged", "null", "journal"] as const;
export const containment = v.picklist(["group", "cgroup"]);

export const processEntries = {
  id,
  name: v.nullable(name),
  pid: v.nullable(pid),
  status,
  command,
  cwd,
  owner: v.strictObject({ uid: wholeNumber, name: v.nullable(v.string()) }),
  user: v.string(),
  startedAt: v.nullable(timestamp),
  endedAt: v.nullable(timestamp),
  exit: v.pipe(
    v.nullable(v.picklist(["code", "signal", "unknown"])),
    v.description("what ended its leader; unknown: nobody could see it, and it is not guessed"),
  ),
  exitCode: v.nullable(wholeNumber),
  signal: v.nullable(signal),
  failure: v.pipe(
    v.nullable(v.strictObject({ stage: v.string(), errno: v.string() })),
    v.description("of a process that never ran: what was being done, and the kernel's errno"),
  ),
  containment,
  stopSignal: signal,
  graceMs: durationMs,
};
export const processShape = v.strictObject(processEntries);

export const member = v.strictObject({
  pid,
  ppid: wholeNumber,
  state: v.pipe(v.string(), v.description("one letter, as in proc(5) /proc/pid/stat")),
  command: v.string(),
});

export const stray = v.strictObject({
  ...member.entries,
  id: v.pipe(v.nullable(v.string()), v.description("the process that it was a member of")),
  by: v.pipe(v.picklist(["cgroup", "tag", "mark"]), v.description("how it was known for ours")),
});

export const terminated = v.strictObject({
  success: v.literal(true),
  pid,
  status: v.picklist(["terminated", "stopping", "running"]),
  message: v.string(),
  timestamp,
  id,
  exitCode: v.nullable(wholeNumber),
  signal: v.nullable(signal),
  forced: v.pipe(v.boolean(), v.description("KILL was needed")),
  ended: v.pipe(wholeNumber, v.description("living members that were brought down")),
  durationMs: wholeNumber,
  members: v.optional(
    v.pipe(v.array(member), v.description("only of a dry run: who would be ended")),
  ),
});

export const load = v.strictObject({ cpuPercent: v.number(), rssBytes: wholeNumber });

/** What a subscriber is sent, as the params of an `event` notification. */
export const eventShape = v.variant("event", [
  v.strictObject({ event: v.literal("status"), subscription: v.string(), process: processShape }),
  v.strictObject({
    event: v.literal("output"),
    subscription: v.string(),
    id,
    stream,
    text: v.string(),
    from: wholeNumber,
    next: wholeNumber,
    missed: v.pipe(
      wholeNumber,
      v.description("bytes right before `from` that the cap had freed before they could be sent"),
    ),
  }),
  v.strictObject({ event: v.literal("dropped"), subscription: v.string(), count: wholeNumber }),
]);

export type Process = v.InferOutput<typeof processShape>;
export type Member = v.InferOutput<typeof member>;
export type Stray = v.InferOutput<typeof stray>;
export type Status = Process["status"];
export type ContainmentKind = Process["containment"];
export type OutputMode = (typeof outputModes)[number];
export type Stream = v.InferOutput<typeof stream>;
export type Event = v.InferOutput<typeof eventShape>;
