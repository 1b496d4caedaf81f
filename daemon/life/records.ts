// What the journal says: the shape of its lines, and what they add up to. A line is the JSON of one fact
// with a checksum at its end. Lines are folded by the same `step` that made them; one that is damaged
// or does not fit is named and left out, never guessed at.
//
// Format history
//   1  first version

import { crc32 } from "node:zlib";
import * as v from "valibot";
import { containment, durationMs, id, name, pid, signal } from "../../client/shapes.js";
import { isFinal, type State, step } from "./state.js";

const string = v.string();
const ms = v.number();
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/** What was asked for at spawn, as far as it is still needed, and where it may be found again. */
const specShape = v.strictObject({
  name: v.nullable(name),
  // What is refused today was run by an earlier version, and may live.
  command: v.array(string),
  cwd: string,
  user: string,
  owner: v.strictObject({ uid: count, name: v.nullable(string) }),
  stopSignal: signal,
  graceMs: durationMs,
  strays: v.picklist(["end", "keep"]),
  containment,
  /** The folder of its cgroup. */
  room: v.nullable(string),
  /** The socket that its mark names. */
  socket: string,
});

const exit = v.variant("by", [
  v.strictObject({ by: v.literal("code"), code: count }),
  v.strictObject({ by: v.literal("signal"), signal }),
  v.strictObject({ by: v.literal("unknown") }),
]);
const identity = v.strictObject({
  boot: string,
  inode: v.nullable(string),
  startTicks: v.nullable(count),
});
const stage = v.picklist([
  "journal",
  "output",
  "contain",
  "fork",
  "cwd",
  "command",
  "interpreter",
  "exec",
]);
const stop = v.strictObject({ askedMs: ms, graceMs: durationMs, warned: v.boolean() });
const ran = { pid, startedMs: ms };
const alive = { ...ran, identity };

const stateShape = v.variant("at", [
  v.strictObject({ at: v.literal("starting") }),
  v.strictObject({ at: v.literal("running"), ...alive }),
  v.strictObject({ at: v.literal("draining"), ...alive, exit }),
  v.strictObject({ at: v.literal("stopping"), ...alive, exit: v.nullable(exit), stop }),
  v.strictObject({ at: v.literal("exited"), ...ran, exit, endedMs: ms }),
  v.strictObject({ at: v.literal("terminated"), ...ran, exit, endedMs: ms }),
  v.strictObject({
    at: v.literal("failed"),
    pid: v.nullable(pid),
    stage,
    errno: string,
    endedMs: ms,
  }),
  v.strictObject({
    at: v.literal("lost"),
    pid: v.nullable(pid),
    startedMs: v.nullable(ms),
    endedMs: ms,
  }),
]);

const eventShape = v.variant("on", [
  v.strictObject({ on: v.literal("spawned"), nowMs: ms, pid, identity }),
  v.strictObject({ on: v.literal("spawnFailed"), nowMs: ms, stage, errno: string }),
  v.strictObject({ on: v.literal("stopAsked"), nowMs: ms, graceMs: durationMs }),
  v.strictObject({ on: v.literal("warned"), nowMs: ms }),
  v.strictObject({ on: v.literal("leaderExited"), nowMs: ms, exit }),
  v.strictObject({ on: v.literal("emptied"), nowMs: ms }),
  v.strictObject({ on: v.literal("missing"), nowMs: ms }),
]);

/**
 * The lines: a process as it stands (`starting` is the intent to start it), what then befell it, and
 * that it is forgotten.
 */
const lineShapes = {
  spec: v.strictObject({ id, spec: specShape, state: stateShape }),
  events: v.strictObject({ id, events: v.array(eventShape) }),
  forgotten: v.strictObject({ id, forgotten: v.literal(true) }),
};

export type Spec = v.InferOutput<typeof specShape>;
export type Line = v.InferOutput<(typeof lineShapes)[keyof typeof lineShapes]>;

/** A process as the journal remembers it. */
export type Recorded = { readonly id: string; readonly spec: Spec; state: State };

// --- lines ------------------------------------------------------------------------------------

const VERSION = 1;
const SUFFIX_CHARS = ',"crc":"01234567"}'.length;

/** What every journal begins with. */
export const header: string = encode({ journal: VERSION });

/** A line of text, its newline included. */
export function encode(value: Line | { journal: number }): string {
  const body = JSON.stringify(value).slice(0, -1);
  return `${body},"crc":"${checksum(body)}"}\n`;
}

function checksum(body: string): string {
  return crc32(body).toString(16).padStart(8, "0");
}

/** What a line says, or why it says nothing. */
function decode(line: string): { value: object } | { reason: string } {
  const body = line.slice(0, -SUFFIX_CHARS);
  const suffix = /^,"crc":"([0-9a-f]{8})"\}$/.exec(line.slice(body.length));
  if (suffix === null) return { reason: "it is no whole line of a journal" };
  if (checksum(body) !== suffix[1]) return { reason: "its checksum is wrong" };
  return { value: JSON.parse(`${body}}`) as object }; // as it was written, says the checksum
}

/** Which line it is meant to be, and whether it is one. */
function parse(value: object): Line | null {
  const shape =
    "events" in value
      ? lineShapes.events
      : "spec" in value
        ? lineShapes.spec
        : lineShapes.forgotten;
  return v.is(shape, value) ? value : null;
}

// --- what they add up to ----------------------------------------------------------------------

/** A line that was left out, and why. */
export type Bad = { readonly lineNumber: number; readonly reason: string };

/** The journal is of another version than this program can read; the message says which. */
export class UnknownVersion extends Error {}

/**
 * Whoever the lines of a journal tell of, in the order of the spawns, and which lines were left out.
 * Throws UnknownVersion.
 */
export function fold(lines: Iterable<string>): { recorded: Map<string, Recorded>; bad: Bad[] } {
  const recorded = new Map<string, Recorded>();
  const bad: Bad[] = [];
  let lineNumber = 0;
  for (const text of lines) {
    lineNumber += 1;
    const line = decode(text);
    const reason = "reason" in line ? line.reason : add(recorded, line.value);
    if (reason !== null) bad.push({ lineNumber, reason });
  }
  return { recorded, bad };
}

/** Why a line could not be added, null when it was. */
function add(recorded: Map<string, Recorded>, value: object): string | null {
  if ("journal" in value) {
    if (value.journal === VERSION) return null;
    throw new UnknownVersion(`version ${String(value.journal)}, this procsup reads ${VERSION}`);
  }
  const line = parse(value);
  if (line === null) return "it is no line of this journal's";
  const known = recorded.get(line.id);
  if ("spec" in line) {
    if (known !== undefined) return `${line.id} is known already`;
    recorded.set(line.id, line);
    return null;
  }
  if (known === undefined) return `${line.id} is not known`;
  if ("forgotten" in line) {
    if (!isFinal(known.state)) return `${line.id} had not ended`;
    recorded.delete(line.id);
    return null;
  }
  try {
    known.state = line.events.reduce(step, known.state);
    return null;
  } catch (error) {
    return (error as Error).message; // `step` names the pair that cannot be
  }
}
