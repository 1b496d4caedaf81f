// The client library: one connection, typed calls, events. It depends on the contract and on Node
// only; nothing of the daemon is imported, so that any program can carry it.

import { existsSync, statSync } from "node:fs";
import net from "node:net";
import {
  createJSONRPCRequest,
  JSONRPCClient,
  type JSONRPCErrorResponse,
  type JSONRPCResponse,
} from "json-rpc-2.0";
import { ownEnvironment, ownFolder } from "./environment.js";
import { createLineReader, type LineReader } from "./lines.js";
import { passedLimit } from "./measure.js";
import { defaultSocket } from "./socket.js";
import {
  type Event,
  type Kind,
  kinds,
  limits,
  type Method,
  methods,
  type Params,
  Refusal,
  type Result,
} from "./wire.js";

export {
  type Address,
  type Event,
  type Kind,
  type Member,
  type Method,
  type Params,
  type Process,
  Refusal,
  type Result,
  type Status,
} from "./wire.js";

/** No daemon could be reached, or the connection ended while a call was pending; the message says why. */
export class Disconnected extends Error {
  override readonly name = "Disconnected";
  /** Beside the kinds of `Refusal`, so that callers can branch on one word. */
  readonly kind = "disconnected";
}

type Calls = { [M in Exclude<Method, "rpc.discover">]: (params: Params<M>) => Promise<Result<M>> };

/** One connection. Every method of the contract is a function on it; refusals throw `Refusal`. */
export type Client = Calls & {
  /** Any method by its wire name, `rpc.discover` included. */
  call<M extends Method>(method: M, params: Params<M>): Promise<Result<M>>;
  /** Hear every event of this connection's subscriptions; the function returned stops it. */
  onEvent(listener: (event: Event) => void): () => void;
  /**
   * Hear once that the connection has ended, and why: a Disconnected, or the Refusal by which the daemon turned it
   * away. No event comes after it, and every call fails with it. Who asks too late hears it too. The function
   * returned takes it back.
   */
  onClose(listener: (reason: Error) => void): () => void;
  /** Close the connection; pending calls fail with Disconnected. */
  close(): void;
};

/** The daemon is trusted to keep to its own limits; this only stops a stranger on that path. */
const REPLY_BYTES = 64 * 1024 * 1024;

/**
 * `made`: calls so far; `rpc` is given each with its line; `ended`: what every call fails with from then on, and
 * `closers` those who are to hear it.
 */
type Pending = {
  rpc: JSONRPCClient<string>;
  made: number;
  calls: number;
  ended: (() => Error) | null;
  readonly closers: Set<(reason: Error) => void>;
};
type Connection = { socket: net.Socket; reader: LineReader; pending: Pending };

/**
 * Connect to the daemon: `socket`, else PROCSUP_SOCKET, else the default path of this user. The
 * connection keeps the program alive only while a call is pending. Throws Disconnected, saying which
 * socket, whether it exists, whether anything listens, and what to do.
 */
export async function connect(options: { socket?: string } = {}): Promise<Client> {
  const socket = await open(socketPath(options.socket));
  const listeners = new Set<(event: Event) => void>();
  const pending: Pending = {
    rpc: new JSONRPCClient((_, text) => void socket.write(text)),
    made: 0,
    calls: 0,
    ended: null,
    closers: new Set(),
  };
  const connection: Connection = { socket, reader: createLineReader(REPLY_BYTES), pending };
  socket.on("data", (chunk) => receive(chunk, connection, listeners));
  socket.on("error", (error) => disconnect(pending, reasonOf(error)));
  socket.on("close", () => disconnect(pending, CLOSED));
  // White space is no line, yet it says which language is spoken: a connection that says nothing
  // is closed in the end (`firstByteMs`), and this one may have nothing to ask for a while. It comes after
  // the listeners: a daemon that is gone by now makes it fail.
  socket.write(" ");
  socket.unref();

  const call: Client["call"] = (method, params) => request(connection, method, params);
  return {
    ...createCalls(call),
    call,
    onEvent(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    onClose(listener) {
      pending.closers.add(listener);
      if (pending.ended !== null) queueMicrotask(() => tellClosed(pending));
      return () => void pending.closers.delete(listener);
    },
    close() {
      disconnect(pending, "the connection was closed by this program");
      socket.destroy();
    },
  };
}

function createCalls(call: Client["call"]): Calls {
  const names = (Object.keys(methods) as Method[]).filter((name) => name !== "rpc.discover");
  const plain = names.map((name) => [name, (params: Params<typeof name>) => call(name, params)]);
  // Each entry is built from the very name that types it.
  const calls = Object.fromEntries(plain) as Calls;
  const spawn: Calls["spawn"] = async (params) => {
    const surroundings = params.user === undefined ? surroundingsFor(params) : {};
    return call("spawn", { ...params, ...surroundings });
  };
  return { ...calls, spawn };
}

/** What was named, else what the environment names; set to nothing, that counts as not set. */
function socketPath(named: string | undefined): string {
  const path = named ?? (process.env["PROCSUP_SOCKET"] || defaultSocket(process.env));
  if (path !== null && path !== "") return path;
  const unset = path === null ? "XDG_RUNTIME_DIR is not set" : "its path is empty";
  throw new Disconnected(`Which socket? ${unset}: name it with --socket or PROCSUP_SOCKET`);
}

/** A command runs where and as its caller stands, unless the caller says otherwise. */
function surroundingsFor({ cwd, env }: Params<"spawn">) {
  return { cwd: cwd ?? ownFolder(), env: env ?? ownEnvironment() };
}

/** sun_path of unix(7) without its NUL; Node 20 cuts a longer path off and connects to what is left. */
const PATH_BYTES = 107;

function open(path: string): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    if (Buffer.byteLength(path) > PATH_BYTES) {
      const why = `a socket's path has at most ${PATH_BYTES} bytes; name a shorter one`;
      reject(new Disconnected(`Cannot connect to ${path}: ${why}`));
      return;
    }
    const socket = net.connect({ path });
    const refuse = (cause: NodeJS.ErrnoException) => {
      reject(new Disconnected(`Cannot connect to ${path}: ${whyNot(path, cause)}`, { cause }));
    };
    socket.once("error", refuse);
    socket.once("connect", () => {
      socket.off("error", refuse);
      resolve(socket);
    });
  });
}

/** What is there, and what to do about it. */
function whyNot(path: string, { code, message }: NodeJS.ErrnoException): string {
  switch (code) {
    case "ENOENT":
      return "it does not exist; start the daemon: procsupd (npm start in a clone), or systemctl start procsup";
    case "ECONNREFUSED": // also for what is no socket at all: man 2 connect
      return statSync(path, { throwIfNoEntry: false })?.isSocket() === false
        ? "it exists, but is no socket; name the right one with --socket or PROCSUP_SOCKET"
        : "it exists, but nothing listens on it; start the daemon again";
    case "EACCES":
      return existsSync(path)
        ? "it exists, but this user may not use it; join its group, or use a daemon of your own"
        : "this user may not look into its folder; use a daemon of your own";
    case "EAGAIN": // the queue of connections not yet accepted is full: man 2 connect
      return "it exists, but too many wait to be let in; try again";
    default:
      return message;
  }
}

async function request<M extends Method>(
  { socket, pending }: Connection,
  method: M,
  params: Params<M>,
): Promise<Result<M>> {
  if (pending.ended !== null) throw pending.ended();
  pending.made += 1;
  const call = createJSONRPCRequest(pending.made, method, params);
  const text = `${JSON.stringify(call)}\n`;
  checkSize(text);
  pending.calls += 1;
  socket.ref();
  try {
    const { result, error } = await pending.rpc.requestAdvanced(call, text);
    if (error !== undefined) throw errorOf(error, pending);
    // The daemon answers by the same contract that Result<M> is derived from.
    return result as Result<M>;
  } finally {
    pending.calls -= 1;
    if (pending.calls === 0) socket.unref();
  }
}

/** json-rpc-2.0 reports what it rejects itself as code 0: then the connection has ended. */
function errorOf(error: JSONRPCErrorResponse["error"], { ended }: Pending): Error {
  return error.code === 0 && ended !== null ? ended() : refusalOf(error);
}

function refusalOf({ code, message, data }: JSONRPCErrorResponse["error"]): Refusal {
  const { kind = kindOf(code), ...facts } = (data ?? {}) as { kind?: Kind };
  return new Refusal(kind, message, facts);
}

/** The specification's own errors carry no kind: their codes are enough. */
function kindOf(code: number): Kind {
  const known = Object.entries(kinds).find(([, entry]) => entry.code === code);
  return (known?.[0] ?? "internal_error") as Kind;
}

/** The daemon would cut the connection over such a line, and with it every other call. */
function checkSize(text: string): void {
  // Its newline does not count, but the white space that came first may.
  const bytes = Buffer.byteLength(text);
  const tooMuch = passedLimit(text);
  if (tooMuch !== null) throw tooMuch;
  if (bytes <= limits.lineBytes) return;
  const message = `The call takes ${bytes} bytes, more than the ${limits.lineBytes} of one line`;
  throw new Refusal("invalid_request", message, { limit: "lineBytes" });
}

function receive(
  chunk: Buffer,
  { socket, reader, pending }: Connection,
  listeners: Iterable<(event: Event) => void>,
): void {
  reader.push(chunk);
  for (let line = reader.next(); line.at !== "more"; line = reader.next()) {
    const message = line.at === "line" ? parse(line.text) : null;
    if (message === null) {
      disconnect(pending, "what answers on this socket does not speak procsup");
      socket.destroy();
      return;
    }
    deliver(message, pending, listeners);
    if (pending.ended !== null) {
      socket.destroy(); // by the daemon, or by whoever heard it: the rest is for nobody
      return;
    }
  }
}

function deliver(
  message: Message,
  pending: Pending,
  listeners: Iterable<(event: Event) => void>,
): void {
  if ("method" in message) {
    if (message.method === "event")
      for (const listener of listeners) tell(listener, message.params);
  } else if (message.id !== null) pending.rpc.receive(message);
  else turnAway(pending, message.error);
}

/** One that throws is its program's affair: answers that came with the event are not held up. */
function tell(listener: (event: Event) => void, event: Event): void {
  try {
    listener(event);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

type Message = JSONRPCResponse | { method: string; params: Event };

function parse(text: string): Message | null {
  try {
    const message: unknown = JSON.parse(text);
    return isMessage(message) ? message : null;
  } catch {
    return null; // no JSON: the caller says what that means
  }
}

/** A notification or a response. What is in them is trusted: the socket was chosen by its path. */
function isMessage(message: unknown): message is Message {
  if (message === null || typeof message !== "object") return false;
  const hasId = "id" in message;
  if ("method" in message) return !hasId && "params" in message && message.params !== null;
  return hasId && ("result" in message || "error" in message);
}

const CLOSED = "the daemon closed the connection";

/** Closed with something unread or unwritten on it, it is still only closed. man 7 unix. */
function reasonOf({ code, message }: NodeJS.ErrnoException): string {
  const isClosed = code === "ECONNRESET" || code === "EPIPE";
  return isClosed ? CLOSED : `the connection broke: ${message}`;
}

/** What is refused without an id is the connection itself. */
function turnAway(pending: Pending, error: JSONRPCResponse["error"]): void {
  if (error) fail(pending, () => refusalOf(error));
  else disconnect(pending, "the daemon refused what was sent and gave no reason");
}

function disconnect(pending: Pending, reason: string): void {
  fail(pending, () => new Disconnected(reason));
}

/** Every pending call fails, and so does every later one. */
function fail(pending: Pending, ended: () => Error): void {
  if (pending.ended !== null) return;
  pending.ended = ended;
  pending.rpc.rejectAllPendingRequests(ended().message);
  // Not in the middle of whatever found it out, `close` of this very program perhaps.
  queueMicrotask(() => tellClosed(pending));
}

function tellClosed({ ended, closers }: Pending): void {
  if (ended === null) return;
  const due = [...closers];
  closers.clear();
  for (const listener of due) listener(ended());
}
