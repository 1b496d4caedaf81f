// What the HTTP door answers to which path. A route that acts is a JSON-RPC text put to `answer`, and
// its answer told in HTTP's words: the status from `kinds`, the text as `error`, the kind as a header.

import { isUtf8 } from "node:buffer";
import type { IncomingMessage } from "node:http";
import { type Kind, kinds, type Method, Refusal } from "../../client/wire.js";
import { isFault, type Patience } from "./patience.js";
import { type Answer, readJson } from "./rpc.js";

export type Request = { readonly head: IncomingMessage; readonly body: Buffer };

export type Reply = {
  readonly status: number;
  /** One JSON text; null where there is nothing to say. */
  readonly text: string | null;
  /** Of an error, in the header `procsup-kind`. */
  readonly kind?: Kind;
  /** A fault of the client's that nobody has blamed it for. */
  readonly isFault?: boolean;
  /** Methods that would do. */
  readonly allow?: string;
  /** The connection ends with it. */
  readonly last?: boolean;
};

/** Whose request it is. */
export type From<C> = { readonly caller: C; readonly patience: Patience };

type Route<C> = {
  readonly path: RegExp;
  readonly methods: readonly string[];
  /** `part` is what the path's pattern has caught. */
  reply(text: string, from: From<C>, part: string): Promise<Reply> | Reply;
};

const TERMINATE = "/api/processes/terminate/";

/**
 * The answer to a request whose body is here. Never rejects: every error is a reply, `{"error": text}`
 * with the refusal's status.
 */
export function createRoutes<C>(
  answer: Answer<C>,
  isStopping: () => boolean,
): (request: Request, from: From<C>) => Promise<Reply> {
  const call = async (method: Method, params: object, { caller, patience }: From<C>) => {
    const line = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
    const words = await answer(line, caller, patience);
    return translate(words?.() ?? "{}");
  };
  const routes: Route<C>[] = [
    {
      path: new RegExp(`^${TERMINATE}([^/?]+)$`),
      methods: ["POST"],
      reply(text, from, part) {
        const params = readTerminate(part, text);
        if (params instanceof Refusal) return failed(params);
        return call("terminate", params, from);
      },
    },
    {
      path: /^\/rpc$/,
      methods: ["POST"],
      async reply(text, { caller, patience }) {
        const words = await answer(text, caller, patience);
        return { status: words === null ? 204 : 200, text: words?.() ?? null };
      },
    },
    {
      path: /^\/openrpc\.json$/,
      methods: ["GET", "HEAD"],
      reply: (_, from) => call("rpc.discover", {}, from),
    },
    {
      path: /^\/healthz$/,
      methods: ["GET", "HEAD"],
      reply: () =>
        isStopping()
          ? { status: 503, text: '{"status":"stopping"}' }
          : { status: 200, text: '{"status":"ok"}' },
    },
  ];
  return async ({ head, body }, from) => {
    const stranger = whyNotAnswered(head);
    if (stranger !== null) return failed(stranger);
    const { url: target = "", method = "" } = head;
    const url = target.replace(/^http:\/\/[^/]*/i, ""); // absolute-form: RFC 9112, 3.2.2
    const route = routes.find(({ path }) => path.test(url));
    if (route === undefined) return failed(noSuchPath);
    if (!route.methods.includes(method)) return notAllowed(method, route.methods.join(", "));
    const unreadable = whyNotRead(head, body);
    if (unreadable !== null) return unreadable;
    return route.reply(body.toString("utf8"), from, route.path.exec(url)?.[1] ?? "");
  };
}

/** An answer to a single call, as HTTP has it. */
function translate(line: string): Reply {
  // Our own answer to our own text: the shape is known.
  const { result, error } = JSON.parse(line) as {
    result?: object;
    error?: { message: string; data: { kind: Kind } };
  };
  if (error === undefined) return { status: 200, text: JSON.stringify(result) };
  const { message, data } = error;
  return { ...failed(new Refusal(data.kind, message)), isFault: false };
}

/** A refusal in HTTP's words; its kind's status unless HTTP has a closer one. */
export function failed(refusal: Refusal, status: number = kinds[refusal.kind].http): Reply {
  const { kind, message } = refusal;
  const text = JSON.stringify({ error: message });
  return { status, kind, text, isFault: isFault(kinds[kind].code) };
}

// --- what is refused here -------------------------------------------------------------------

const noSuchPath = new Refusal(
  "method_not_found",
  `No such path, or a query: there are POST ${TERMINATE}PID, POST /rpc, GET /openrpc.json, GET /healthz`,
  {},
);

/** Browsers name the page that asks, and no page has any business here. */
function whyNotAnswered({ headers, httpVersion }: IncomingMessage): Refusal | null {
  if (headers.origin !== undefined) {
    return new Refusal("permission_denied", "Requests with an Origin, so of browsers, are refused");
  }
  // RFC 9112, 3.2: must be refused.
  if (httpVersion !== "1.1" || headers.host !== undefined) return null;
  return new Refusal("invalid_request", "HTTP/1.1 requires a Host header; any name will do");
}

function notAllowed(method: string, allow: string): Reply {
  const refusal = new Refusal("invalid_request", `${method} does nothing here: use ${allow}`, {});
  return { ...failed(refusal, 405), allow };
}

/** Only what says that it is JSON is read as JSON; no body needs no type. */
function whyNotRead({ headers }: IncomingMessage, body: Buffer): Reply | null {
  if (body.length === 0) return null;
  const { "content-type": type = "", "content-encoding": coding = "identity" } = headers;
  if (!/^application\/json *(;|$)/i.test(type)) {
    const message = "The body must be JSON: send `content-type: application/json`";
    return failed(new Refusal("invalid_request", message, {}), 415);
  }
  if (coding !== "identity") {
    const message = "The body must be sent as it is, without content-encoding";
    return failed(new Refusal("invalid_request", message, {}), 415);
  }
  return isUtf8(body) ? null : failed(new Refusal("parse_error", "The body is not UTF-8", {}));
}

/** The params of `terminate` as the route has them: a number in the path, and at most `force`. */
function readTerminate(part: string, text: string): object {
  if (!/^[1-9][0-9]*$/.test(part)) {
    const message = `terminate: pid: expected a number, as in ${TERMINATE}12345`;
    return new Refusal("invalid_params", message, { field: "pid" });
  }
  const body = /^\s*$/.test(text) ? {} : readJson(text);
  if (body instanceof Refusal) return body;
  if (body === null || typeof body !== "object" || Array.isArray(body)) {
    const message = 'terminate: the body must be empty or an object like {"force": true}';
    return new Refusal("invalid_params", message, {});
  }
  const unknown = Object.keys(body).find((field) => field !== "force");
  if (unknown === undefined) return { ...body, pid: Number(part) };
  const message = `terminate: unknown field ${unknown}; known: force`;
  return new Refusal("invalid_params", message, { field: unknown });
}
