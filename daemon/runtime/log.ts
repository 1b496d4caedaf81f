// The daemon's own log: winston on the standard streams. It decides how a record looks and that it is
// one record; what is worth logging is decided where it happens.

import { fstatSync } from "node:fs";
import { isatty } from "node:tty";
import winston from "winston";
import Transport from "winston-transport";
import { createSink, drain, put, type Sink, streamSink, type Write } from "./sink.js";

type Fields = Readonly<Record<string, string | number | boolean | null>>;

type Say = (message: string, fields?: Fields | (() => Fields)) => void;

/**
 * One call is one record, whatever the fields hold. A function is asked for them once whoever waits is
 * answered: it must not throw, and may look only at what never changes.
 */
export type Log = {
  readonly error: Say;
  readonly warning: Say;
  readonly info: Say;
  readonly debug: Say;
  /** What is less urgent is left out from now on. */
  setLevel(level: string): void;
  /** Write out what a slow reader has left waiting, for at most half a second; then give up. */
  flush(): void;
};

export type LogStyle = "terminal" | "journal" | "json";

/** Human lines on a terminal, `<N>` prefixes where journald listens, JSON for everything else. */
export function logStyle(env: Readonly<Record<string, string | undefined>>): LogStyle {
  // Only when stdout is that very stream: shells below a unit inherit the variable. man 5 systemd.exec.
  const { dev, ino } = fstatSync(1);
  if (env["JOURNAL_STREAM"] === `${dev}:${ino}`) return "journal";
  return isatty(1) ? "terminal" : "json";
}

/**
 * In the style `journal` records go out by `send`, with fields to look for, unless that is null. Else
 * records up to `info` priority go to stdout, warnings and errors to stderr. They are made into text
 * a millisecond later, or by `flush`: whoever waits for an answer is answered first.
 */
export function createLog(level: string, style: LogStyle, send: Write | null = null): Log {
  const transport = new SinkTransport(style === "journal" ? send : null);
  const { combine, json, printf } = winston.format;
  const time = (info: Info) => new Date(String(info["timestamp"])).toTimeString().slice(0, 8);
  const formats = {
    json: combine(json()),
    terminal: printf((info) => `${time(info)} ${human(info)}`),
    journal: printf((info) => `<${winston.config.syslog.levels[info.level] ?? 6}>${human(info)}`),
  };
  const logger = winston.createLogger({
    level,
    levels: winston.config.syslog.levels,
    format: formats[style],
    transports: [transport],
  });
  let waiting: (() => winston.LogEntry)[] = [];
  const write = () => {
    const due = waiting;
    waiting = [];
    for (const entry of due) logger.log(entry());
  };
  const take = (name: string): Say => {
    return (message, fields = {}) => {
      if (!logger.isLevelEnabled(name)) return;
      if (waiting.length === 0) setTimeout(write, SOON_MS).unref();
      const nowMs = Date.now();
      waiting.push(() => ({
        level: name,
        message,
        ...(typeof fields === "function" ? fields() : fields),
        timestamp: new Date(nowMs).toISOString(),
      }));
    };
  };
  return {
    error: take("error"),
    warning: take("warning"),
    info: take("info"),
    debug: take("debug"),
    setLevel: (name) => {
      logger.level = name;
    },
    flush: () => {
      write();
      transport.flush();
    },
  };
}

/** Passes on the first of several troubles in a row; null says that the row is over. */
export function tellOnce<E>(tell: (error: E) => void): (error: E | null) => void {
  let isTold = false;
  return (error) => {
    if (error !== null && !isTold) tell(error);
    isTold = error !== null;
  };
}

type Info = winston.Logform.TransformableInfo;

/** `message key=value ...`; values are JSON, so that no client text can end a line or start a field. */
function human(info: Info): string {
  const { level, message, timestamp: _, ...fields } = info;
  const parts = Object.entries(fields).map(([key, value]) => `${key}=${plain(value)}`);
  const head = level === "info" ? [] : [`${level}:`];
  return [...head, oneLine(String(message)), ...parts].join(" ");
}

function plain(value: unknown): string {
  const text = String(value);
  return /^[\w.:/@+-]+$/.test(text) ? text : oneLine(JSON.stringify(value));
}

/** Control characters, C1 and the Unicode line ends included, as escapes. */
export function oneLine(text: string): string {
  return text.replace(
    /[\p{Cc}\u2028\u2029]/gu,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

const FORMATTED = Symbol.for("message");

/** Of syslog's levels: it and all more urgent ones go to stderr. */
const WARNING = 4;

type Formatted = Info & { [FORMATTED]?: string };

/** With four bytes each it still fits into a datagram. man 7 socket, SO_SNDBUF. */
const RECORD_CHARS = 32 * 1024;
const SOON_MS = 1;
const FLUSH_MS = 500;

/**
 * Writes to the streams, or to journald where `send` does, a turn later and at the latest at exit. winston's own
 * transports lose queued lines at exit.
 */
class SinkTransport extends Transport {
  private readonly normal: Sink;
  private readonly urgent: Sink;
  private readonly textOf: (info: Formatted) => string;

  constructor(send: Write | null) {
    super();
    this.textOf = send === null ? lineOf : recordOf;
    this.normal = send === null ? streamSink(1, lossLine) : createSink(send, lossRecord);
    this.urgent = send === null ? streamSink(2, lossLine) : this.normal;
  }

  override log(info: Formatted, done: () => void): void {
    put(priorityOf(info) <= WARNING ? this.urgent : this.normal, this.textOf(info));
    done();
  }

  flush(): void {
    const untilMs = performance.now() + FLUSH_MS;
    const cell = new Int32Array(new SharedArrayBuffer(4));
    for (const sink of [this.normal, this.urgent]) {
      while (!drain(sink) && performance.now() < untilMs) Atomics.wait(cell, 0, 0, 5);
    }
  }
}

function priorityOf({ level }: { level: string }): number {
  return winston.config.syslog.levels[level] ?? 6;
}

/** With what belongs to a process under its id, name and pid, so that they can be asked for. */
function recordOf(info: Formatted): string {
  const { id, name, pid } = info;
  const message = (info[FORMATTED] ?? "").replace(/^<[0-7]>/, "").slice(0, RECORD_CHARS);
  const ids = id === undefined ? {} : { PROCSUP_ID: id, PROCSUP_NAME: name, PROCSUP_PID: pid };
  return encode({ MESSAGE: message, PRIORITY: priorityOf(info), ...ids });
}

function lossRecord(message: string): string {
  return encode({ MESSAGE: message, PRIORITY: WARNING });
}

function lineOf(info: Formatted): string {
  return `${info[FORMATTED] ?? ""}\n`;
}

function lossLine(message: string): string {
  return `${JSON.stringify({ level: "warning", message })}\n`;
}

/** As journald wants it: a field a line, which holds since no value has a line end here. */
function encode(fields: Readonly<Record<string, unknown>>): string {
  return Object.entries({ ...fields, SYSLOG_IDENTIFIER: "procsupd" })
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([key, value]) => `${key}=${oneLine(String(value))}\n`)
    .join("");
}
