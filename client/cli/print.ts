// How answers look from outside: exit codes for shells, documents for programs, lines and aligned columns
// for people, free of whatever control characters a command or a name may hold.

import { constants } from "node:os";
import {
  type Kind,
  type Member,
  type Process,
  Refusal,
  type Result,
  type Signal,
} from "../wire.js";
import { isIdPrefix } from "./arguments.js";

export const exitCodes = {
  /** What was typed does not fit. */
  usage: 2,
  /** `status` of a process that has ended. LSB, as the next two. */
  ended: 3,
  /** `wait --timeout`, as with timeout(1). */
  timedOut: 124,
  /** Of procsup itself, where codes are passed on or spoken for. As env(1), timeout(1) and others. */
  ownFailure: 125,
} as const;

/** 4: unknown, 7: not running. LSB. */
const refusalCodes: Partial<Record<Kind, number>> = {
  invalid_params: exitCodes.usage,
  process_not_found: 4,
  already_terminated: 7,
};

export function codeOf(error: unknown): number {
  return error instanceof Refusal ? (refusalCodes[error.kind] ?? 1) : 1;
}

/** 127: not found, 126: found but cannot be run, 125: everything else. POSIX, 2.8.2. */
export function startCode(error: unknown): number {
  const isFailure = error instanceof Refusal && error.kind === "spawn_failed";
  return isFailure ? codeOfFailure(error.facts) : exitCodes.ownFailure;
}

function codeOfFailure({ stage, errno }: { stage?: unknown; errno?: unknown }): number {
  if (stage === "command") return errno === "ENOENT" ? 127 : 126;
  return stage === "interpreter" || stage === "exec" ? 126 : exitCodes.ownFailure;
}

/** Its own, 128 + N for signal N, 125 when nobody knows. */
export function codeOfProcess({ exitCode, signal }: Process): number {
  if (signal !== null) return 128 + constants.signals[signal];
  return exitCode ?? exitCodes.ownFailure;
}

/** For whoever has started it, too: as `startCode` where the command never ran. */
export function runCode(process: Process): number {
  return process.failure === null ? codeOfProcess(process) : codeOfFailure(process.failure);
}

/** One document, on lines of its own. */
export function jsonText(document: unknown): string {
  return `${JSON.stringify(document, null, 2)}\n`;
}

/** A refusal, a lost connection or whatever else was thrown, as a document. */
export function errorJson(error: unknown): unknown {
  const { kind = "internal_error", message, facts } = error as Partial<Refusal>;
  return { error: { kind, message, ...facts } };
}

export function errorText(error: unknown): string {
  return `procsup: ${clean((error as Error).message)}${hint(error)}\n`;
}

function hint(error: unknown): string {
  if (!(error instanceof Refusal) || error.kind !== "process_not_found") return "";
  if (!isIdPrefix(String(error.facts["name"]))) return "";
  return "; if an id is meant, its beginning is not enough";
}

/** Control characters as `?`: what a process is called must not steer a terminal. */
function clean(text: string): string {
  return text.replace(/[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu, "?");
}

/** Aligned columns, two spaces apart; the last one runs free. */
function columns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? [])
    .slice(0, -1)
    .map((_, at) => Math.max(...rows.map((row) => row[at]?.length ?? 0)));
  const lines = rows.map((row) => row.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join("  "));
  return lines.map((line) => `${line}\n`).join("");
}

/** `12 s`, `3 min`, `5 h`, `2 d` since a timestamp, to the unit that tells most. */
function since(timestamp: string | null): string {
  if (timestamp === null) return "-";
  const seconds = Math.max(0, (Date.now() - Date.parse(timestamp)) / 1000);
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800
    ? `${Math.round(seconds / 3600)} h`
    : `${Math.round(seconds / 86_400)} d`;
}

/** How it ended: exit code, signal, `unknown`, or nothing yet. */
function ending({ exitCode, signal, exit }: Process): string {
  return signal ?? String(exitCode ?? (exit === "unknown" ? exit : "-"));
}

/** Why an ended process has neither code nor signal; nothing for all others. */
export function unknownText({ id, exitCode, signal, status, failure }: Process): string {
  if (exitCode !== null || signal !== null) return "";
  const why = failure === null ? "how it ended nobody knows" : `${failure.stage}: ${failure.errno}`;
  return `procsup: ${id} ${status}: ${why}\n`;
}

export function processTable(processes: readonly Process[]): string {
  const head = ["PID", "ID", "NAME", "STATUS", "EXIT", "STARTED", "COMMAND"];
  const rows = processes.map((process) => [
    String(process.pid ?? "-"),
    process.id,
    process.name ?? "-",
    process.status,
    ending(process),
    since(process.startedAt),
    clean(process.command.join(" ")),
  ]);
  return columns([head, ...rows]);
}

export function statusText(status: Result<"status">): string {
  const { members, command, owner, name, ...rest } = status;
  const facts: [string, string | number | null][] = [
    ["id", rest.id],
    ["name", name],
    ["pid", rest.pid],
    ["status", rest.status],
    ["command", clean(command.join(" "))],
    ["cwd", clean(rest.cwd)],
    ["owner", owner.name ?? owner.uid],
    ["user", rest.user],
    ["started", rest.startedAt],
    ["ended", rest.endedAt],
    ["exit", ending(status)],
    ["failure", rest.failure && `${rest.failure.stage}: ${rest.failure.errno}`],
    ["stop", `${rest.stopSignal}, then KILL after ${rest.graceMs} ms`],
    ["containment", rest.containment],
  ];
  const known = facts
    .filter(([, value]) => value !== null)
    .map(([key, value]) => [key, `${value}`]);
  return members.length === 0 ? columns(known) : `${columns(known)}\n${memberTree(members)}`;
}

/** Each member below its parent; at the left edge whoever's parent is not among them. */
function memberTree(members: readonly Member[]): string {
  const pids = new Set(members.map(({ pid }) => pid));
  const rows: string[][] = [];
  const add = (one: Member, indent: string) => {
    rows.push([String(one.pid), String(one.ppid), one.state, `${indent}${clean(one.command)}`]);
    for (const child of members) if (child.ppid === one.pid) add(child, `${indent}  `);
  };
  for (const one of members) if (!pids.has(one.ppid)) add(one, "");
  return columns([["PID", "PPID", "STATE", "COMMAND"], ...rows]);
}

export function straysText({ strays, ended }: Result<"strays">): string {
  const rows = strays.map((one) => [
    String(one.pid),
    String(one.ppid),
    one.state,
    one.id ?? "-",
    one.by,
    clean(one.command),
  ]);
  const list = columns([["PID", "PPID", "STATE", "ID", "BY", "COMMAND"], ...rows]);
  return ended === 0 ? list : `${list}ended: ${count(ended)}\n`;
}

export function terminatedText(results: readonly Result<"terminate">[]): string {
  const lines = results.map((result) => {
    const { message, pid, status, ended, forced, durationMs, members } = result;
    if (members !== undefined) return `${message}: PID ${pid}\n${memberTree(members)}`;
    if (status === "stopping") return `${message}: PID ${pid}\n`;
    const gently = result.signal === "SIGKILL" ? "by KILL" : "gracefully";
    const how = forced ? "KILL was needed" : gently;
    return `${message}: PID ${pid} (${count(ended)}, ${how}, ${durationMs} ms)\n`;
  });
  return lines.join("");
}

export function signaledText(
  signal: Signal,
  results: readonly Result<"signal">[],
  targets: readonly string[],
): string {
  const lines = results.map(
    ({ signaled }, at) => `${signal} sent to ${targets[at]} (${count(signaled)})\n`,
  );
  return lines.join("");
}

/** One step a line, as they would be typed; then what to know. */
export function reportText({ steps, notes }: { steps: string[]; notes: string[] }): string {
  return [...steps.map((step) => `  ${step}\n`), ...notes.map((note) => `${note}\n`)].join("");
}

function count(members: number): string {
  return members === 1 ? "1 member" : `${members} members`;
}

export function usageTable(usages: readonly Result<"usage">[]): string {
  const mib = (bytes: number) => `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
  const head = ["PID", "ID", "CPU %", "RSS", "TREE CPU %", "TREE RSS", "MEMBERS"];
  const rows = usages.map(({ id, pid, leader, tree }) => [
    String(pid),
    id,
    leader === null ? "-" : leader.cpuPercent.toFixed(1),
    leader === null ? "-" : mib(leader.rssBytes),
    tree.cpuPercent.toFixed(1),
    mib(tree.rssBytes),
    String(tree.members),
  ]);
  return columns([head, ...rows]);
}

export function infoText({ counts, limits, kernel, ...rest }: Result<"info">): string {
  const section = (facts: Record<string, unknown>) =>
    columns(Object.entries(facts).map(([key, value]) => [`  ${key}`, String(value)]));
  return [
    columns(Object.entries(rest).map(([key, value]) => [key, String(value)])),
    `kernel\n${section(kernel)}`,
    `processes\n${section(counts)}`,
    `limits\n${section(limits)}`,
  ].join("");
}
