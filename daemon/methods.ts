// Contract name -> one line. Params are checked against the contract here, and nowhere else; what a
// method does is told to the floors below.

import { release } from "node:os";
import * as v from "valibot";
import {
  type Checked,
  limits,
  type Method,
  methods,
  Refusal,
  type Result,
  WIRE_VERSION,
} from "../client/wire.js";
import { type Feed, follow, type Listener, subscribe, unsubscribe } from "./feed.js";
import { describeContract } from "./openrpc.js";
import { readOutput } from "./output.js";
import type { Call } from "./rpc.js";
import { type Identity, spawn } from "./spawn.js";
import { isFinal } from "./state.js";
import { countStrays, strays } from "./strays.js";
import {
  counts,
  inspect,
  list,
  pause,
  resume,
  sendSignal,
  terminate,
  usage,
  wait,
} from "./supervisor.js";
import { find, type Table } from "./table.js";
import type { Sampler } from "./usage.js";

/** Who calls: a connection to send events to, and on whose behalf it spawns. */
export type Caller = { readonly listener: Listener; readonly identity: Identity };

/** What methods work on. */
export type House = {
  readonly table: Table;
  readonly feed: Feed;
  readonly sampler: Sampler;
  readonly version: string;
  /** What was found at start: kernel features by name, and why not where not. */
  readonly features: Readonly<Record<string, boolean | string>>;
};

type Handlers = {
  [M in Method]: (params: Checked<M>, caller: Caller) => Result<M> | Promise<Result<M>>;
};

function createHandlers(house: House): Handlers {
  const { table, feed, sampler } = house;
  return {
    spawn: (params, { identity }) => spawn(table, params, identity),
    terminate: (params) => terminate(table, params),
    signal: (params) => sendSignal(table, params),
    pause: (params) => pause(table, params),
    resume: (params) => resume(table, params),
    list: (params, { listener }) => listener.inTurn(async () => list(table, params)),
    status: (params) => inspect(table, params),
    wait: (params, { listener }) => wait(table, params, listener.onClose),
    logs: (params, { listener }) => listener.inTurn(() => logs(table, params)),
    usage: (params) => usage(table, sampler, params),
    subscribe: (params, { listener }) => listen(table, feed, params, listener),
    unsubscribe: ({ subscription }, { listener }) => ({
      unsubscribed: unsubscribe(feed, listener, subscription),
    }),
    strays: (params) => strays(table, params),
    info: () => info(house),
    "rpc.discover": () => describeContract(house.version),
  };
}

async function logs(table: Table, params: Checked<"logs">): Promise<Result<"logs">> {
  const entry = find(table, params);
  const ended = isFinal(entry.state);
  const { atEnd, ...slice } = await readOutput(
    table.output,
    entry.id,
    params.stream,
    params,
    !ended,
  );
  return { ...slice, ended: ended && atEnd };
}

async function listen(
  table: Table,
  feed: Feed,
  params: Checked<"subscribe">,
  listener: Listener,
): Promise<Result<"subscribe">> {
  const { output, ...address } = params;
  if (Object.keys(address).length === 0) return { subscription: subscribe(feed, listener, null) };
  const entry = find(table, address);
  const subscription = subscribe(feed, listener, entry.id);
  const source = {
    id: entry.id,
    isWriting: () => !isFinal(entry.state),
    failed: ({ message }: Error) =>
      table.log.warning("cannot follow output", { id: entry.id, error: message }),
  };
  if (output) await follow(feed, listener, subscription, table.output, source);
  return { subscription };
}

async function info({ table, version, features }: House): Promise<Result<"info">> {
  return {
    version,
    wire: WIRE_VERSION,
    pid: process.pid,
    uptimeMs: Math.round(process.uptime() * 1000),
    containment: table.containing.kind,
    kernel: { release: release(), ...features },
    counts: counts(table),
    strays: await countStrays(table),
    limits: { ...limits, ...table.history.bounds },
  };
}

/** The calls of the contract, each checking its params first: `invalid_params` names the field. */
export function createCalls(house: House): Record<Method, Call<Caller>> {
  const handlers = createHandlers(house);
  const entries = (Object.keys(methods) as Method[]).map((name) => [name, checked(name, handlers)]);
  return Object.fromEntries(entries);
}

function checked<M extends Method>(name: M, handlers: Handlers): Call<Caller> {
  const schema: v.GenericSchema = methods[name].params;
  const handler = handlers[name];
  return async (params, caller) => {
    const result = v.safeParse(schema, params ?? {});
    if (!result.success) throw invalid(name, params, result.issues[0]);
    // The schema is the one that Checked<M> is derived from.
    return handler(result.output as Checked<M>, caller);
  };
}

/** Never repeats what was sent: an environment may hold secrets. */
function invalid(name: Method, params: unknown, issue: v.BaseIssue<unknown>): Refusal {
  if (Array.isArray(params)) {
    return new Refusal("invalid_params", `${name}: params are by name: send an object`, {});
  }
  const field = v.getDotPath(issue);
  if (field === null) return new Refusal("invalid_params", `${name}: ${issue.message}`, {});
  const isUnknown = issue.type === "strict_object" && issue.expected === "never";
  const known = Object.keys(methods[name].params.entries).join(", ");
  const message = isUnknown
    ? `${name}: unknown field ${field}; known: ${known || "none"}`
    : `${name}: ${field}: ${reason(issue)}`;
  return new Refusal("invalid_params", message, { field });
}

function reason(issue: v.BaseIssue<unknown>): string {
  if (issue.kind === "schema" && issue.received === "undefined") return "is missing";
  const isOwnText = issue.type === "check" || issue.type === "regex";
  return isOwnText ? issue.message : `expected ${issue.expected}`;
}
