// The HTTP door: HTTP/1.1 by Node's own parser, for whoever knows the contract's route or has an HTTP
// client at hand. It is a face on `answer`: each route is a JSON-RPC text in other clothes, so that
// params, access, refusals and bugs are dealt with where they are for the line door.

import http, { type IncomingMessage, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { createHeap } from "../../client/lines.js";
import { type Limits, limits, Refusal } from "../../client/wire.js";
import { oneAtATime } from "../runtime/slices.js";
import { closeWith, createListener, type Door } from "./connection.js";
import type { Patience } from "./patience.js";
import { createRoutes, failed, type Reply, type Request } from "./routes.js";
import type { Answer } from "./rpc.js";
import { beginCall, charge, isToWait, laneOf, openTally, type Tally } from "./shares.js";

type Connection<C> = {
  readonly socket: Duplex;
  readonly caller: C;
  readonly tally: Tally;
  readonly patience: Patience;
  /** Requests that are being answered. */
  requests: number;
  /** Of these, those that are kept waiting: one after the other, in their order. */
  waiting: number;
  readonly inTurn: (job: () => Promise<void>) => Promise<void>;
  /** No further request is answered. */
  ending: boolean;
  /** To be written once those under way are answered, before the end. */
  lastWords: string;
  /** Gives up the body that is still to come; false when it is all there. */
  giveUp: (reply: Reply) => boolean;
  timer: NodeJS.Timeout | undefined;
};

/** A body that is too long is heard out so far: who is cut off while sending may never read why. */
const HEARD_OUT_BYTES = 16 * 1024 * 1024;

type Respond = (request: Request) => Promise<Reply>;

/** The door for whoever speaks HTTP. `isStopping` is what `GET /healthz` tells. */
export function createHttpDoor<C>(
  answer: Answer<C>,
  isStopping: () => boolean,
  bounds: Limits = limits,
): Door<C> {
  const routes = createRoutes(answer, isStopping);
  const connections = new WeakMap<Duplex, Connection<C>>();
  const server = createParser(bounds);
  const attend = (request: IncomingMessage, response: ServerResponse) => {
    const connection = connections.get(request.socket);
    if (connection === undefined) return;
    const respond: Respond = async (asked) => {
      if (isHeldBack(connection)) await ownTurn(connection);
      const beganMs = beginCall();
      const reply = routes(asked, connection);
      charge(connection.tally, beganMs);
      return reply;
    };
    void serveRequest(connection, request, response, respond, bounds);
  };
  server.on("request", attend);
  server.on("checkContinue", attend);
  server.on("checkExpectation", attend);
  const refuse = (socket: Duplex, reply: Reply) => {
    const connection = connections.get(socket);
    if (connection === undefined || !socket.writable) socket.destroy();
    else breakOff(connection, reply, bounds);
  };
  server.on("clientError", (error: ParseError, socket) => refuse(socket, unreadable(error)));
  // Node gives the socket away with it, so that no route could answer.
  server.on("connect", (_, socket) => refuse(socket, noTunnel));
  return {
    open(socket, first, { patience, callerOf }) {
      const caller = callerOf(createListener(socket, { isWaiting: () => false, notify: null }));
      const connection = createConnection(socket, patience, caller);
      connections.set(socket, connection);
      wait(connection, bounds.requestMs, () => breakOff(connection, late, bounds));
      socket.once("close", () => clearTimeout(connection.timer));
      // The parser says so itself, unless the request asked for an upgrade.
      socket.once("end", () => connection.giveUp(unreadable({ reason: "it ends in its body" })));
      socket.unshift(first);
      server.emit("connection", socket);
      return () => end(connection, "", bounds);
    },
    refuse: (socket, refusal) => void socket.end(plain(failed(refusal))),
  };
}

/**
 * It never listens: connections are given to it. Its own time limits are then not in force (they
 * would also wake the daemon twice a minute), so each connection has a timer, below.
 */
function createParser(bounds: Limits): http.Server {
  const server = http.createServer({
    maxHeaderSize: bounds.headBytes,
    keepAliveTimeout: 0,
    requireHostHeader: false, // refused by us, in the shape of all errors
  });
  // Who half-closes still gets the answer. Not in Node's types, nor in its documentation.
  return Object.assign(server, { httpAllowHalfOpen: true });
}

function createConnection<C>(socket: Duplex, patience: Patience, caller: C): Connection<C> {
  const state = { requests: 0, waiting: 0, ending: false, lastWords: "", timer: undefined };
  const kept = { tally: openTally(), patience, inTurn: oneAtATime() };
  return { socket, caller, ...kept, ...state, giveUp: () => false };
}

// --- requests -------------------------------------------------------------------------------

async function serveRequest<C>(
  connection: Connection<C>,
  request: IncomingMessage,
  response: ServerResponse,
  respond: Respond,
  bounds: Limits,
): Promise<void> {
  connection.requests += 1;
  clearTimeout(connection.timer);
  response.once("close", () => {
    connection.requests -= 1;
    settle(connection, bounds);
  });
  const body = await readBody(connection, request, response, bounds);
  if (body === null) return;
  const reply = Buffer.isBuffer(body) ? await respond({ head: request, body }) : body;
  // Node closes behind it, so not while others wait their turn.
  const isLast = connection.ending && connection.requests === 1 && connection.lastWords === "";
  if (reply.isFault) connection.patience.blame(1);
  send(response, isLast ? { ...reply, last: true } : reply);
}

/** Whoever is, waits, and what comes behind it on its connection too: they keep their order. */
function isHeldBack<C>({ waiting, tally, patience }: Connection<C>): boolean {
  return waiting > 0 || isToWait(tally) || patience.isOver();
}

async function ownTurn<C>(connection: Connection<C>): Promise<void> {
  const { patience, tally } = connection;
  connection.waiting += 1;
  await connection.inTurn(() => patience.turn(laneOf(tally)));
  connection.waiting -= 1;
}

/** The body; or the reply in its place; or null when the client is gone. */
function readBody<C>(
  connection: Connection<C>,
  request: IncomingMessage,
  response: ServerResponse,
  bounds: Limits,
): Promise<Buffer | Reply | null> {
  const { "content-length": declared = "0", expect } = request.headers;
  if (connection.requests > bounds.requestsInFlight) return Promise.resolve(tooMany);
  const asksFirst = expect !== undefined;
  if (Number(declared) > (asksFirst ? bounds.lineBytes : HEARD_OUT_BYTES)) {
    return Promise.resolve(tooLong);
  }
  if (asksFirst && !/^100-continue$/i.test(expect)) return Promise.resolve(unexpected);
  if (asksFirst) response.writeContinue();
  const heap = createHeap();
  let length = 0;
  return new Promise((resolve) => {
    const timer = setTimeout(() => done(late), bounds.requestMs);
    const done = (outcome: Buffer | Reply | null) => {
      clearTimeout(timer);
      request.off("data", take).off("end", whole).off("close", gone);
      resolve(outcome);
    };
    const take = (chunk: Buffer) => {
      length += chunk.length;
      if (length <= bounds.lineBytes) heap.add(chunk);
      else if (length > HEARD_OUT_BYTES) done(tooLong);
    };
    const whole = () => done(length > bounds.lineBytes ? tooLong : heap.take());
    const gone = () => done(null);
    connection.giveUp = (reply) => {
      if (!request.complete) done(reply);
      return !request.complete;
    };
    request.on("data", take).on("end", whole).on("close", gone);
    request.on("error", () => undefined); // `close` follows
  });
}

/** What clients branch on, beside the contract's body. */
const KIND = "procsup-kind";

function send(response: ServerResponse, { status, text, kind, allow, last }: Reply): void {
  const headers: http.OutgoingHttpHeaders = {};
  if (text !== null) {
    headers["content-type"] = "application/json";
    headers["content-length"] = Buffer.byteLength(text) + 1;
  }
  if (kind !== undefined) headers[KIND] = kind;
  if (allow !== undefined) headers["allow"] = allow;
  if (last === true) headers["connection"] = "close";
  response.writeHead(status, headers);
  response.end(text === null ? undefined : `${text}\n`);
}

/** The same as bytes, for where the parser has no request to answer. */
function plain({ status, text, kind }: Reply): string {
  const length = Buffer.byteLength(text ?? "") + 1;
  const head = `HTTP/1.1 ${status} ${http.STATUS_CODES[status]}`;
  const fields = `content-type: application/json\r\ncontent-length: ${length}\r\n${KIND}: ${kind}`;
  return `${head}\r\n${fields}\r\nconnection: close\r\n\r\n${text}\n`;
}

// --- the connection -------------------------------------------------------------------------

/** Close if the end has come, else wait for the next request. */
function settle<C>(connection: Connection<C>, bounds: Limits): void {
  if (connection.requests > 0 || connection.socket.destroyed) return;
  if (connection.ending) closeWith(connection.socket, connection.lastWords);
  // Nothing is said: an answer to no request would be taken for that to the next.
  else wait(connection, bounds.idleMs, () => closeWith(connection.socket, ""));
}

function wait<C>(connection: Connection<C>, ms: number, then: () => void): void {
  clearTimeout(connection.timer);
  connection.timer = setTimeout(then, ms);
}

function end<C>(connection: Connection<C>, lastWords: string, bounds: Limits): void {
  connection.ending = true;
  connection.lastWords = lastWords;
  settle(connection, bounds);
}

/** What came is no request, or not in time: answered in its turn, and the last that is answered. */
function breakOff<C>(connection: Connection<C>, reply: Reply, bounds: Limits): void {
  if (connection.giveUp(reply)) return;
  if (reply.isFault) connection.patience.blame(1);
  end(connection, plain(reply), bounds);
}

// --- refusals -------------------------------------------------------------------------------

const tooLong = lastly(
  new Refusal("invalid_request", `A body is longer than ${limits.lineBytes} bytes`, {
    limit: "lineBytes",
  }),
  413,
);
const tooMany = lastly(
  new Refusal(
    "limit_exceeded",
    `A connection may await ${limits.requestsInFlight} answers: wait for one, or open another`,
    { limit: "requestsInFlight" },
  ),
);
const late = lastly(
  new Refusal("invalid_request", `A request must be sent within ${limits.requestMs} ms`, {
    limit: "requestMs",
  }),
  408,
);
const unexpected = lastly(
  new Refusal("invalid_request", "Of what Expect can ask, only 100-continue is known", {}),
  417,
);
const noTunnel = lastly(new Refusal("invalid_request", "CONNECT is not to be had here", {}), 405);

function lastly(refusal: Refusal, status?: number): Reply {
  return { ...failed(refusal, status), last: true };
}

type ParseError = { code?: string; reason?: string };

/** What Node's parser says of it, in words of its own that repeat nothing of what came. */
function unreadable({ code, reason = "broken" }: ParseError): Reply {
  if (code === "HPE_HEADER_OVERFLOW") {
    const message = `The head of a request is longer than ${limits.headBytes} bytes`;
    return lastly(new Refusal("invalid_request", message, { limit: "headBytes" }), 431);
  }
  return lastly(new Refusal("invalid_request", `This is no HTTP/1.1 request: ${reason}`, {}));
}
