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
import { type Kind, kinds, limits, Refusal } from "../client/wire.js";
import { isFault } from "./patience.js";
import { turn } from "./slices.js";

/** A method: validated by whoever made it, throwing Refusal for every planned error. */
export type Call<C> = (params: unknown, caller: C) => unknown;

/** `text` is null when no answer is due (notifications); `faults` of the client's are told in it. */
export type Answered = { readonly text: string | null; readonly faults: number };

/** The answer to one line. Never rejects. */
export type Answer<C> = (text: string, caller: C) => Promise<Answered>;

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

  return async (text, caller) => {
    const message = readJson(text);
    if (message instanceof Refusal) return single(unreadable(message), unforeseen);
    if (!Array.isArray(message)) return single(await one(message, caller), unforeseen);
    if (message.length === 0 || message.length > limits.batchCalls) {
      return single(protocolError("invalid_request", null), unforeseen);
    }
    const batch = createBatch(unforeseen);
    const parts: PromiseLike<void>[] = [];
    for (const [at, part] of message.entries()) {
      // A hundred spawns in one turn of the event loop would keep everybody else waiting for seconds.
      if (at > 0) await turn();
      parts.push(one(part, caller).then((response) => batch.put(at, response)));
    }
    await Promise.all(parts);
    return batch.answered();
  };
}

/**
 * The value of a JSON text, or the refusal that it gets instead: `parse_error`, or `invalid_request`
 * with the limit that it passes. A mebibyte of `[` keeps JSON.parse busy for 0.4 s and one of `{},` for
 * 0.2 s; to count them takes about 10 ms, and less where strings are long.
 */
export function readJson(text: string): unknown {
  const limit = passedLimit(text);
  if (limit !== null) {
    const message = `The JSON text passes the limit of ${limits[limit]} ${limitTexts[limit]}`;
    return new Refusal("invalid_request", message, { limit });
  }
  try {
    return JSON.parse(text);
  } catch {
    return new Refusal("parse_error", protocolTexts.parse_error); // the reason is in the text itself
  }
}

const limitTexts = { nesting: "nested arrays and objects", values: "values" } as const;

/** Counts are true only as far as the text is JSON, and JSON.parse goes no further. */
function passedLimit(text: string): keyof typeof limitTexts | null {
  // What has two brackets a level is too short to pass either.
  if (text.length <= 2 * limits.nesting) return null;
  let depth = 0;
  let values = 1;
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case '"':
        at = endOfString(text, at);
        break;
      case "[":
      case "{":
        depth += 1;
        values += 1;
        break;
      case "]":
      case "}":
        depth -= 1;
        break;
      case ",":
        values += 1;
        break;
    }
    if (depth > limits.nesting) return "nesting";
    if (values > limits.values) return "values";
  }
  return null;
}

/** The position of the closing quote: the first one behind an even number of backslashes. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let before = end - 1;
    while (text[before] === "\\") before -= 1;
    if ((end - before) % 2 === 1) return end;
  }
  return text.length;
}

function single(
  response: JSONRPCResponse | null,
  unforeseen: (error: unknown) => string,
): Answered {
  return { text: stringify(response, unforeseen), faults: faultsIn(response) };
}

function faultsIn(response: JSONRPCResponse | null): number {
  return response?.error !== undefined && isFault(response.error.code) ? 1 : 0;
}

/** As the specification prints it where it does. */
function unreadable(refusal: Refusal): JSONRPCErrorResponse {
  if (refusal.kind === "parse_error") return protocolError("parse_error", null);
  return refusalResponse(null, refusal);
}

/** An answer that took long to write out. */
const LONG_CHARS = 16 * 1024;

/**
 * The answer to a batch, of the answers to its parts. One line, so within the limit of a line: what does
 * not fit is refused, part by part. Each is put into words as it comes, so that no more than that is held
 * while others are awaited.
 */
function createBatch(unforeseen: (error: unknown) => string) {
  const texts: string[] = [];
  let chars = 2;
  let faults = 0;
  let last = Promise.resolve();

  async function put(at: number, part: JSONRPCResponse | null): Promise<void> {
    let text = stringify(part, unforeseen);
    if (part === null || text === null) return;
    faults += faultsIn(part);
    if (text.length > LONG_CHARS) await turn();
    if (chars + text.length > limits.lineBytes) {
      const message = "The answers of this batch are longer than one line may be: call it alone";
      const refusal = new Refusal("limit_exceeded", message, { limit: "lineBytes" });
      text = JSON.stringify(refusalResponse(part.id, refusal));
    }
    chars += text.length + 1;
    texts[at] = text;
  }

  return {
    /** The answer to the part `at`; null when none is due. Long ones that come together take turns. */
    put(at: number, part: JSONRPCResponse | null): Promise<void> {
      last = last.then(() => put(at, part));
      return last;
    },
    /** In the order of the parts. */
    answered(): Answered {
      const due = texts.filter(() => true); // without the holes
      return { text: due.length === 0 ? null : `[${due.join(",")}]`, faults };
    },
  };
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

/** The text of a response; a result that is no JSON is as unforeseen as any other bug. */
function stringify(
  response: JSONRPCResponse | null,
  unforeseen: (error: unknown) => string,
): string | null {
  if (response === null) return null;
  try {
    if (response.error !== undefined) return JSON.stringify(response);
    const { id, result } = response;
    return `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":${resultText(result)}}`;
  } catch (error) {
    return JSON.stringify(errorResponse(response.id, error, unforeseen));
  }
}

/** By identity: whoever makes a result anew makes a new object. Nothing long is kept. */
let last = { result: undefined as unknown, text: "null" };

/** Whoever asks the same in one turn is told one and the same result, which then is put into words once. */
function resultText(result: unknown): string {
  if (result === last.result) return last.text;
  const text = JSON.stringify(result);
  if (text.length <= LONG_CHARS) last = { result, text };
  return text;
}
