// The line door: connections, and nothing of what is said on them. It cuts lines, bounds what a client
// may have under way, joins the replies of one turn into one write, and holds back whoever does not
// read. Lines go to `answer`, events come through the connection's Listener.

import type { Server, Socket } from "node:net";
import { createLineReader, type LineReader } from "../client/lines.js";
import { type Event, limits, Refusal } from "../client/wire.js";
import type { Listener } from "./feed.js";
import { type Answer, protocolError, refusalResponse } from "./rpc.js";

type Connection = {
  readonly socket: Socket;
  readonly reader: LineReader;
  readonly answerLine: (text: string) => Promise<string | null>;
  readonly closers: Set<() => void>;
  /** Lines to be written at the end of this turn. */
  outgoing: string[];
  outgoingChars: number;
  callsInFlight: number;
  /** The client will send no more. */
  inputEnded: boolean;
  /** Nothing is taken any more: the client broke the protocol, or is gone. */
  over: boolean;
  /** A turn of reading is due. */
  reading: boolean;
};

/** Lines taken of one connection before the others get their turn and backpressure is looked at. */
const LINES_A_TURN = 16;

/**
 * Serve `server`'s connections. `callerOf` makes what `answer` is given from each connection, once, or throws a Refusal.
 * The function returned ends all connections once their replies are written, or after `graceMs`.
 */
export function serve<C>(
  server: Server,
  answer: Answer<C>,
  callerOf: (listener: Listener, socket: Socket) => C,
): (graceMs: number) => Promise<void> {
  const open = new Set<Connection>();
  server.on("connection", (socket) => {
    if (open.size >= limits.connections) {
      turnAway(socket, fullHouse());
      return;
    }
    let connection: Connection;
    try {
      connection = connect(socket, (listener) => {
        const caller = callerOf(listener, socket);
        return (text) => answer(text, caller);
      });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      turnAway(socket, error);
      return;
    }
    open.add(connection);
    connection.closers.add(() => open.delete(connection));
  });
  return (graceMs) => closeAll(open, graceMs);
}

function fullHouse(): Refusal {
  const message = `The daemon has ${limits.connections} connections already: try again later`;
  return new Refusal("limit_exceeded", message, { limit: "connections" });
}

function turnAway(socket: Socket, refusal: Refusal): void {
  socket.on("error", () => socket.destroy());
  socket.end(`${JSON.stringify(refusalResponse(null, refusal))}\n`, () => socket.destroy());
}

function connect(
  socket: Socket,
  answering: (listener: Listener) => Connection["answerLine"],
): Connection {
  const closers = new Set<() => void>();
  const connection: Connection = {
    socket,
    reader: createLineReader(limits.lineBytes),
    answerLine: (text) => answerLine(text),
    closers,
    outgoing: [],
    outgoingChars: 0,
    callsInFlight: 0,
    inputEnded: false,
    over: false,
    reading: false,
  };
  const answerLine = answering(listenerOf(connection));
  socket.on("data", (chunk) => {
    if (connection.over) return;
    connection.reader.push(chunk);
    read(connection);
  });
  socket.on("drain", () => read(connection));
  socket.on("end", () => {
    connection.inputEnded = true;
    read(connection);
  });
  socket.on("error", () => socket.destroy()); // EPIPE, ECONNRESET: the client is gone
  socket.on("close", () => {
    connection.over = true;
    for (const closer of [...closers]) closer();
    closers.clear();
  });
  return connection;
}

// --- reading --------------------------------------------------------------------------------

function isHeldBack({ socket, callsInFlight, outgoingChars }: Connection): boolean {
  if (callsInFlight >= limits.callsInFlight) return true;
  return socket.writableNeedDrain || outgoingChars > socket.writableHighWaterMark;
}

/** Take lines until there are none, the turn is over, or the client has to be held back. */
function read(connection: Connection): void {
  if (connection.reading || connection.over) return;
  const { socket, reader } = connection;
  for (let lines = 0; lines < LINES_A_TURN; lines++) {
    if (isHeldBack(connection)) {
      socket.pause();
      return;
    }
    const line = reader.next();
    switch (line.at) {
      case "line":
        take(connection, line.text);
        break;
      case "notUtf8":
        reply(connection, JSON.stringify(protocolError("parse_error", null)));
        break;
      case "tooLong":
        refuseLine(connection);
        return;
      case "more":
        if (connection.inputEnded) endInput(connection);
        else socket.resume();
        return;
    }
  }
  connection.reading = true;
  socket.pause();
  setImmediate(() => {
    connection.reading = false;
    read(connection);
  });
}

function take(connection: Connection, text: string): void {
  // A batch counts as what it may hold.
  const calls = text.startsWith("[") ? limits.batchCalls : 1;
  connection.callsInFlight += calls;
  void connection.answerLine(text).then((line) => {
    connection.callsInFlight -= calls;
    if (line !== null) reply(connection, line);
    if (connection.socket.isPaused() || connection.inputEnded) read(connection);
  });
}

function refuseLine(connection: Connection): void {
  connection.over = true;
  const message = `A line is longer than ${limits.lineBytes} bytes`;
  const refusal = new Refusal("invalid_request", message, { limit: "lineBytes" });
  connection.outgoing.push(`${JSON.stringify(refusalResponse(null, refusal))}\n`);
  flush(connection);
  connection.socket.end(() => connection.socket.destroy());
}

/** The client has half-closed: what it asked is still answered, then the other half is closed. */
function endInput(connection: Connection): void {
  if (connection.reader.unfinished()) {
    connection.reader.push(Buffer.from("\n"));
    connection.reader.next();
    reply(connection, JSON.stringify(protocolError("parse_error", null)));
  }
  if (connection.callsInFlight > 0) return;
  connection.over = true;
  flush(connection);
  connection.socket.end(() => connection.socket.destroy());
}

// --- writing --------------------------------------------------------------------------------

function reply(connection: Connection, line: string): void {
  if (connection.socket.destroyed) return;
  if (connection.outgoing.length === 0) process.nextTick(flush, connection);
  connection.outgoing.push(`${line}\n`);
  connection.outgoingChars += line.length;
}

function flush(connection: Connection): void {
  const text = connection.outgoing.join("");
  connection.outgoing = [];
  connection.outgoingChars = 0;
  if (text !== "" && connection.socket.writable) connection.socket.write(text);
  if (connection.socket.isPaused() && !isHeldBack(connection)) read(connection);
}

function queued({ socket, outgoingChars }: Connection): number {
  return socket.writableLength + outgoingChars;
}

function listenerOf(connection: Connection): Listener {
  const { socket, closers } = connection;
  let turn: Promise<unknown> = Promise.resolve();
  const onClose = (fn: () => void) => {
    closers.add(fn);
    return () => void closers.delete(fn);
  };
  const drained = () =>
    new Promise<void>((resolve) => {
      const done = () => {
        stay();
        socket.off("drain", done);
        resolve();
      };
      const stay = onClose(done);
      socket.once("drain", done);
    });
  const writable = async () => {
    while (!socket.destroyed) {
      if (connection.outgoing.length > 0) await new Promise(setImmediate);
      else if (socket.writableNeedDrain) await drained();
      else return;
    }
  };
  return {
    get closed() {
      return socket.destroyed;
    },
    onClose,
    writable,
    notify(event: Event) {
      if (socket.destroyed) return true;
      if (queued(connection) > limits.queuedBytes) return false;
      reply(connection, JSON.stringify({ jsonrpc: "2.0", method: "event", params: event }));
      return true;
    },
    inTurn(job) {
      const mine = turn.then(writable).then(job);
      turn = mine.catch(() => undefined); // whoever asked gets the error; the next one just goes on
      return mine;
    },
  };
}

// --- closing --------------------------------------------------------------------------------

async function closeAll(open: Set<Connection>, graceMs: number): Promise<void> {
  const closed = [...open].map((connection) => {
    connection.inputEnded = true;
    const gone = new Promise<void>((resolve) => connection.closers.add(resolve));
    read(connection);
    return gone;
  });
  const timer = setTimeout(() => {
    for (const { socket } of open) socket.destroy();
  }, graceMs);
  await Promise.all(closed);
  clearTimeout(timer);
}
