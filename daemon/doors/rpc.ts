// JSON-RPC 2.0 to the letter: one text in, one text or nothing out. json-rpc-2.0 dispatches single,
// well-formed requests; everything it is lax about (batches of one, null, odd ids and params, error
// texts) is decided here. Which methods there are is not known here.

import {
  createJSONRPCErrorResponse,
  type JSONRPCErrorResponse,
  type JSONRPCID,
  type JSONRPCRequest,
  type JSONRPCResponse,
  JSONRPCServer,
} from "json-rpc-2.0";
import { passedLimit } from "../../client/measure.js";
import { type Kind, kinds, limits, Refusal } from "../../client/wire.js";
import { oneAtATime, turn } from "../runtime/slices.js";
import { isFault, type Patience } from "./patience.js";

/** A method: validated by whoever made it, throwing Refusal for every planned error. */
export type Call<C> = (params: unknown, caller: C) => unknown;

/** An answer that is yet to be put into words: a long one is only made when there is room for it. */
export type Words = () => string;

/**
 * The answer to one line, or null when none is due (notifications). Never rejects. Its faults are put to
 * the account of whoever has sent it, and a batch waits between its parts when that is used up.
 */
export type Answer<C> = (text: string, caller: C, patience: Patience) => Promise<Words | null>;

/**
 * Answer lines by `calls`. An error that is no Refusal is a bug or a broken machine: it is given to
 * `unforeseen`, which returns a reference for the log, and the caller sees only that.
 */
export function createAnswer<C>(
  calls: Readonly<Record<string, Call<C>>>,
  unforeseen: (error: unknown) => string,
): Answer<C> {
  const server = new JSONRPCServer<C>({ errorListener: () => undefined });
  for (const [name, call] of Object.entries(calls)) server.addMethod(name, call);
  server.mapErrorToJSONRPCErrorResponse = (id, error) => errorResponse(id, error, unforeseen);

  function one(message: unknown, caller: C): PromiseLike<JSONRPCResponse | null> {
    if (isRequest(message)) return server.receive(message, caller);
    return Promise.resolve(protocolError("invalid_request", idOf(message)));
  }

  async function all(messages: unknown[], caller: C, patience: Patience): Promise<Words | null> {
    const batch = createBatch(patience, unforeseen);
    const parts: PromiseLike<void>[] = [];
    for (const [at, part] of messages.entries()) {
      // A hundred spawns in one turn of the event loop would keep everybody else waiting for seconds.
      if (at > 0) await patience.turn();
      parts.push(one(part, caller).then((response) => batch.put(at, response)));
    }
    await Promise.all(parts);
    return batch.words();
  }

  return async (text, caller, patience) => {
    const message = withinBatch(readJson(text));
    if (Array.isArray(message) && message.length > 0) return all(message, caller, patience);
    const response = message instanceof Refusal ? unreadable(message) : await one(message, caller);
    // A long one took as long to read as several short ones.
    if (isFaulty(response)) patience.blame(Math.ceil(text.length / LONG_CHARS));
    return response === null ? null : () => withinLine(stringify(response, unforeseen), response);
  };
}

/** The value of a JSON text, or the refusal that it gets instead: `parse_error`, or `invalid_request` for a limit. */
export function readJson(text: string): unknown {
  const tooMuch = passedLimit(text);
  if (tooMuch !== null) return tooMuch;
  try {
    return JSON.parse(text);
  } catch {
    return new Refusal("parse_error", protocolTexts.parse_error); // the reason is in the text itself
  }
}

/** A batch that is too long is refused whole. */
function withinBatch(message: unknown): unknown {
  if (!Array.isArray(message) || message.length <= limits.batchCalls) return message;
  const text = `A batch holds at most ${limits.batchCalls} calls`;
  return new Refusal("invalid_request", text, { limit: "batchCalls" });
}

function isFaulty(response: JSONRPCResponse | null): boolean {
  return response?.error !== undefined && isFault(response.error.code);
}

/** As the specification prints it where it does. */
function unreadable(refusal: Refusal): JSONRPCErrorResponse {
  if (refusal.kind === "parse_error") return protocolError("parse_error", null);
  return refusalResponse(null, refusal);
}

/** A text that takes long to write out, or to read. */
const LONG_CHARS = 16 * 1024;
/** Kept free in the answer to a batch, for the refusals of what does not fit. */
const REFUSALS_BYTES = limits.batchCalls * 256;

/**
 * The answer to a batch, of the answers to its parts. One line, so within the limit of a line: what does
 * not fit is refused, part by part. Each is put into words as it comes, so that no more than that is held
 * while others are awaited.
 */
function createBatch(patience: Patience, unforeseen: (error: unknown) => string) {
  const texts: string[] = [];
  let bytes = 2;
  const inTurn = oneAtATime();

  async function put(at: number, part: JSONRPCResponse | null): Promise<void> {
    if (part === null) return;
    let text = stringify(part, unforeseen);
    if (isFaulty(part)) patience.blame(1);
    if (text.length > LONG_CHARS) await turn();
    if (bytes + Buffer.byteLength(text) > limits.lineBytes - REFUSALS_BYTES) {
      text = outgrown(
        part.id,
        "The answers of this batch are longer than one line may be: call it alone",
      );
    }
    bytes += Buffer.byteLength(text) + 1;
    texts[at] = text;
  }

  return {
    /** The answer to the part `at`; null when none is due. Long ones that come together take turns. */
    put: (at: number, part: JSONRPCResponse | null) => inTurn(() => put(at, part)),
    /** In the order of the parts; null when no answer is due. */
    words(): Words | null {
      const due = texts.filter(() => true); // without the holes
      return due.length === 0 ? null : () => `[${due.join(",")}]`;
    },
  };
}

/** An answer's text, or what is told in its place when it is longer than a line. */
function withinLine(text: string, { id }: JSONRPCResponse): string {
  const { lineBytes } = limits;
  // No character takes more than three bytes for each of its units.
  if (3 * text.length <= lineBytes || Buffer.byteLength(text) <= lineBytes) return text;
  return outgrown(id, `The answer is longer than the ${lineBytes} bytes of a line`);
}

function outgrown(id: JSONRPCID, message: string): string {
  const refusal = new Refusal("limit_exceeded", message, { limit: "lineBytes" });
  return JSON.stringify(refusalResponse(id, refusal));
}

/** Section 4: a request, or a notification when it has no id. */
function isRequest(message: unknown): message is JSONRPCRequest {
  if (message === null || typeof message !== "object" || Array.isArray(message)) return false;
  if (!("jsonrpc" in message) || message.jsonrpc !== "2.0") return false;
  if (!("method" in message) || typeof message.method !== "string") return false;
  if ("id" in message && !isId(message.id)) return false;
  if (!("params" in message)) return true;
  return message.params !== null && typeof message.params === "object";
}

function isId(id: unknown): id is JSONRPCID {
  return id === null || typeof id === "string" || typeof id === "number";
}

/** Section 5: an id that could be read is echoed also when the rest is wrong. */
function idOf(message: unknown): JSONRPCID {
  const hasId = message !== null && typeof message === "object" && "id" in message;
  return hasId && isId(message.id) ? message.id : null;
}

const protocolTexts = {
  parse_error: "Parse error",
  invalid_request: "Invalid Request",
  method_not_found: "Method not found",
} as const;

/**
 * The specification's own errors come exactly as its section 7 prints them, so without `data`; their
 * codes say what `data.kind` would.
 */
export function protocolError(
  kind: keyof typeof protocolTexts,
  id: JSONRPCID,
): JSONRPCErrorResponse {
  return createJSONRPCErrorResponse(id, kinds[kind].code, protocolTexts[kind]);
}

/** A refusal as an error response, `data.kind` first. */
export function refusalResponse(id: JSONRPCID, refusal: Refusal): JSONRPCErrorResponse {
  const { kind, message, facts } = refusal;
  return createJSONRPCErrorResponse(id, kinds[kind].code, message, { kind, ...facts });
}

function errorResponse(
  id: JSONRPCID,
  error: unknown,
  unforeseen: (error: unknown) => string,
): JSONRPCErrorResponse {
  if (error instanceof Refusal) return refusalResponse(id, error);
  const reference = unforeseen(error);
  const kind: Kind = "internal_error";
  const message = `Server error: see the daemon's log, reference ${reference}`;
  return refusalResponse(id, new Refusal(kind, message, { reference }));
}

/** The text of a response; a result that is no JSON is a bug, and as unforeseen. */
function stringify(response: JSONRPCResponse, unforeseen: (error: unknown) => string): string {
  try {
    if (response.error !== undefined) return JSON.stringify(response);
    const { id, result } = response;
    return `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":${resultText(result)}}`;
  } catch (error) {
    return JSON.stringify(errorResponse(response.id, error, unforeseen));
  }
}

/** By identity: whoever makes a result anew makes a new object. Nothing long is kept. */
let last = { result: null as unknown, text: "null" };

/** Whoever asks the same in one turn is told one and the same result, which then is put into words once. */
export function resultText(result: unknown): string {
  if (result === last.result) return last.text;
  const text = JSON.stringify(result);
  if (text.length <= LONG_CHARS) last = { result, text };
  return text;
}
