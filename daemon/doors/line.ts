// The line door: one JSON-RPC text a line. It cuts lines, bounds what a client may have under way, joins
// the replies of one turn into one write, and holds back whoever does not read. Lines go to `answer`,
// events come through the connection's Listener.

import type { Socket } from "node:net";
import { createLineReader, type LineReader } from "../../client/lines.js";
import { type Event, limits, Refusal } from "../../client/wire.js";
import { turn } from "../runtime/slices.js";
import { closeWith, createListener, type Door, type Visitor } from "./connection.js";
import type { Patience } from "./patience.js";
import { type Answer, protocolError, refusalResponse, resultText, type Words } from "./rpc.js";
import {
  beginCall,
  charge,
  chargeBytes,
  isToWait,
  laneOf,
  openTally,
  type Tally,
} from "./shares.js";

type Connection = {
  readonly socket: Socket;
  readonly reader: LineReader;
  readonly answerLine: (text: string) => Promise<Words | null>;
  readonly patience: Patience;
  /** Answers that wait for room, and to how many calls each is one. */
  readonly unsaid: { words: Words | null; calls: number }[];
  /** Lines to be written at the end of this turn. */
  outgoing: string;
  /** When the socket got some last. */
  saidMs: number;
  /** Until their answers are put into words. */
  callsInFlight: number;
  /** The client will send no more. */
  inputEnded: boolean;
  /** Nothing is taken any more: the client broke the protocol, or is gone. */
  over: boolean;
  /** A turn of reading is due. */
  reading: boolean;
  readonly tally: Tally;
};

/** At the end of the daemon, whoever was told something so lately may ask on, for the last output of what has ended, say, */
const LAST_ASK_MS = 300;
/** for so long. */
const LAST_ASKS_MS = 600;

/** Lines taken of one connection before the others get their turn and backpressure is looked at. */
const LINES_A_TURN = 4;

/** The door for whoever writes lines of JSON-RPC, answered by `answer`. */
export function createLineDoor<C>(answer: Answer<C>): Door<C> {
  return {
    open(socket, first, visitor) {
      const connection = connect(socket, visitor, answer);
      receive(connection, first);
      return (mayAsk) => finish(connection, mayAsk ? performance.now() + LAST_ASKS_MS : 0);
    },
    refuse: (socket, refusal) => void socket.end(refusalLine(refusal)),
  };
}

function refusalLine(refusal: Refusal): string {
  return `${JSON.stringify(refusalResponse(null, refusal))}\n`;
}

function connect<C>(
  socket: Socket,
  { patience, callerOf }: Visitor<C>,
  answer: Answer<C>,
): Connection {
  const listener = createListener(socket, {
    isWaiting: () => connection.outgoing !== "",
    notify(params) {
      if (socket.writableLength + connection.outgoing.length > limits.queuedBytes) return false;
      reply(connection, eventText(params));
      return true;
    },
  });
  const caller = callerOf(listener);
  const connection: Connection = {
    socket,
    patience,
    reader: createLineReader(limits.lineBytes),
    answerLine: (text) => answer(text, caller, patience),
    unsaid: [],
    outgoing: "",
    saidMs: Number.NEGATIVE_INFINITY,
    callsInFlight: 0,
    inputEnded: false,
    over: false,
    reading: false,
    tally: openTally(),
  };
  socket.on("data", (chunk) => receive(connection, chunk));
  socket.on("drain", () => say(connection));
  socket.on("end", () => {
    connection.inputEnded = true;
    read(connection);
  });
  socket.on("close", () => {
    connection.over = true;
  });
  return connection;
}

// --- reading --------------------------------------------------------------------------------

function receive(connection: Connection, chunk: Buffer): void {
  if (connection.over) return;
  connection.reader.push(chunk);
  read(connection);
}

function isHeldBack(connection: Connection): boolean {
  return connection.callsInFlight >= limits.callsInFlight || !hasRoom(connection);
}

/**
 * Take lines until there are none, the turn is over, or the client has to be held back. In its own turn
 * it has one line at least.
 */
function read(connection: Connection, isOwnTurn = false): void {
  if (connection.reading || connection.over) return;
  const { socket, reader, tally } = connection;
  for (let lines = 0; lines < LINES_A_TURN; lines++) {
    if (isHeldBack(connection)) {
      socket.pause();
      return;
    }
    const when = whenNext(connection, isOwnTurn && lines === 0);
    if (when !== null) {
      readLater(connection, when);
      return;
    }
    const beganMs = beginCall();
    const line = reader.next();
    switch (line.at) {
      case "line":
        take(connection, line.text);
        break;
      case "notUtf8":
        refuseText(connection);
        break;
      case "tooLong":
        refuseLine(connection);
        return;
      case "more":
        chargeBytes(tally, beganMs);
        readOn(connection);
        return;
    }
    charge(tally, beganMs);
  }
  readLater(connection, connection.patience.turn(laneOf(tally)));
}

/** When the next line may be taken; null: now. */
function whenNext({ patience, tally }: Connection, isDue: boolean): Promise<void> | null {
  if (isDue || !(patience.isOver() || isToWait(tally))) return null;
  return patience.turn(laneOf(tally));
}

function readLater(connection: Connection, when: Promise<void>): void {
  connection.reading = true;
  connection.socket.pause();
  void when.then(() => {
    connection.reading = false;
    read(connection, true);
  });
}

/** All that has come was taken: let more come, or end if no more will. */
function readOn(connection: Connection): void {
  if (connection.inputEnded) endInput(connection);
  else if (connection.socket.isPaused()) connection.socket.resume();
}

/** Take no more of whoever has nothing more to ask, and close once all is answered. */
function finish(connection: Connection, untilMs: number): void {
  const waitMs = Math.min(untilMs, connection.saidMs + LAST_ASK_MS) - performance.now();
  if (waitMs > 0) {
    setTimeout(finish, waitMs, connection, untilMs);
    return;
  }
  connection.inputEnded = true;
  read(connection);
}

const isBatch = /^[ \t\r]*\[/;

function take(connection: Connection, text: string): void {
  // A batch counts as what it may hold.
  const calls = isBatch.test(text) ? limits.batchCalls : 1;
  connection.callsInFlight += calls;
  void connection.answerLine(text).then((words) => {
    connection.unsaid.push({ words, calls });
    say(connection);
  });
}

function refuseText(connection: Connection): void {
  connection.patience.blame(1);
  reply(connection, JSON.stringify(protocolError("parse_error", null)));
}

function refuseLine(connection: Connection): void {
  connection.over = true;
  connection.patience.blame(1);
  const message = `A line is longer than ${limits.lineBytes} bytes`;
  const refusal = new Refusal("invalid_request", message, { limit: "lineBytes" });
  connection.outgoing += refusalLine(refusal);
  flush(connection);
  closeWith(connection.socket, "");
}

/** The client has half-closed: what it asked is still answered, then the other half is closed. */
function endInput(connection: Connection): void {
  if (connection.reader.unfinished()) {
    connection.reader.push(Buffer.from("\n"));
    connection.reader.next();
    refuseText(connection);
  }
  if (connection.callsInFlight > 0) return;
  connection.over = true;
  flush(connection);
  closeWith(connection.socket, "");
}

// --- writing --------------------------------------------------------------------------------

/** The client reads, and what is put into words already is not much. */
function hasRoom({ socket, outgoing }: Connection): boolean {
  return !socket.writableNeedDrain && outgoing.length <= socket.writableHighWaterMark;
}

/** Put answers into words, in the order in which they came, while there is room for them. */
function say(connection: Connection): void {
  const { socket, unsaid } = connection;
  while (hasRoom(connection)) {
    const next = unsaid.shift();
    if (next === undefined) break;
    connection.callsInFlight -= next.calls;
    if (next.words !== null && !socket.destroyed) reply(connection, next.words());
  }
  if (socket.isPaused() || connection.inputEnded) read(connection);
}

function reply(connection: Connection, line: string): void {
  if (connection.socket.destroyed) return;
  if (connection.outgoing === "") process.nextTick(flush, connection);
  connection.outgoing += `${line}\n`;
}

/** A change of a process is told to all who asked for it in the same words. */
function eventText(params: Event): string {
  if (params.event !== "status") {
    return JSON.stringify({ jsonrpc: "2.0", method: "event", params });
  }
  const { event, subscription, process } = params;
  const rest = `"event":"${event}","subscription":"${subscription}"`;
  return `{"jsonrpc":"2.0","method":"event","params":{${rest},"process":${resultText(process)}}}`;
}

function flush(connection: Connection): void {
  const { socket, unsaid, outgoing } = connection;
  connection.outgoing = "";
  if (outgoing !== "" && socket.writable) {
    socket.write(outgoing);
    connection.saidMs = performance.now();
  }
  if (!hasRoom(connection)) return; // gone on with at `drain`
  if (unsaid.length > 0) void turn().then(() => say(connection));
  else if (socket.isPaused()) read(connection);
}
