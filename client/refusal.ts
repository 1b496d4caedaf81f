// How procsup says no: the kinds of refusals with their codes, and the limits that lead to some of them.

/** Every bound that a client can meet, in one place; `info` shows them. */
export const limits = {
  /** Bytes of one line, either way, without its newline; and of one HTTP body. */
  lineBytes: 1024 * 1024,
  /** Bytes of a command as JSON: an answer that holds it is one line, too. */
  commandBytes: 960 * 1024,
  /** Arrays and objects within each other in one JSON text. */
  nesting: 64,
  /** Values in one JSON text, counted before it is parsed. */
  values: 16 * 1024,
  /** Calls in one JSON-RPC batch. */
  batchCalls: 100,
  /** Calls of one connection that are being answered at once; further input waits. */
  callsInFlight: 1024,
  /** Of these, calls of `wait`; a further one is refused: the end that all wait for may have to be asked for. */
  waits: 960,
  /** Requests of one HTTP connection that are being answered at once; a further one is refused. */
  requestsInFlight: 10,
  /** Bytes of the head of one HTTP request. */
  headBytes: 16 * 1024,
  /** Connections at once; a further one is refused with `limit_exceeded`. */
  connections: 1024,
  /** Of these, for one user who is neither root nor the daemon's own. */
  connectionsPerUser: 256,
  /** Of these, kept free for root and the daemon's own user. */
  connectionsReserved: 64,
  /** Milliseconds until a new connection must have said something. */
  firstByteMs: 60_000,
  /** Milliseconds for the head of an HTTP connection's first request, and for each body. */
  requestMs: 30_000,
  /** Milliseconds from one HTTP answer to the end of the next request's head. */
  idleMs: 60_000,
  /** Faults of one program (answers with JSON-RPC's own errors) in a second; past them it is kept waiting. */
  faultsPerSecond: 25,
  /** So many at once, if it had none before. */
  faultsAtOnce: 100,
  /** While a program is kept waiting, and so much of it waits, a new connection is refused. */
  faultyWaiting: 16,
  /** Subscriptions of one connection. */
  subscriptions: 64,
  /** Bytes queued for a reader that does not read before its events are dropped and counted. */
  queuedBytes: 256 * 1024,
  /** Living processes at once; a further `spawn` is refused with `limit_exceeded`. */
  processes: 4096,
  /** Bytes of output that one `logs` answer or one output event carries. */
  logBytes: 128 * 1024,
  /** The longest grace, and the longest `timeoutMs`, in milliseconds: one day. */
  waitMs: 24 * 60 * 60 * 1000,
} as const;

/** The same bounds with other figures: scenarios need not wait a minute. */
export type Limits = Readonly<Record<keyof typeof limits, number>>;

/** Refusal kind -> JSON-RPC code and HTTP status. Clients branch on the kind, never on text. */
export const kinds = {
  parse_error: { code: -32700, http: 400 },
  invalid_request: { code: -32600, http: 400 },
  method_not_found: { code: -32601, http: 404 },
  invalid_params: { code: -32602, http: 400 },
  internal_error: { code: -32603, http: 500 },
  process_not_found: { code: -32001, http: 404 },
  already_terminated: { code: -32002, http: 400 },
  termination_failed: { code: -32003, http: 500 },
  permission_denied: { code: -32004, http: 403 },
  spawn_failed: { code: -32005, http: 422 },
  limit_exceeded: { code: -32006, http: 429 },
  name_taken: { code: -32007, http: 409 },
  shutting_down: { code: -32008, http: 503 },
} as const;

export type Kind = keyof typeof kinds;

/**
 * A planned error, the same on both ends of the wire.
 * `facts` travels as the error's `data`, beside `kind`, and holds JSON values only.
 */
export class Refusal extends Error {
  readonly kind: Kind;
  readonly facts: Readonly<Record<string, unknown>>;

  constructor(
    kind: Kind,
    message: string,
    facts: Readonly<Record<string, unknown>> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = "Refusal";
    this.kind = kind;
    this.facts = facts;
  }
}
