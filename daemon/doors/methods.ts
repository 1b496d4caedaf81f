// Contract name -> one line. Params are checked against the contract here, and nowhere else; what a
// method does is left to the floors below.

import { release } from "node:os";
import * as v from "valibot";
import {
  type Checked,
  type Limits,
  limits,
  type Method,
  methods,
  type Process,
  Refusal,
  type Result,
  WIRE_VERSION,
} from "../../client/wire.js";
import { isFinal } from "../life/state.js";
import { readOutput } from "../output/reading.js";
import { controls, type Viewer } from "../processes/access.js";
import { describe } from "../processes/entry.js";
import { counts, inspect, list, usage, wait } from "../processes/reports.js";
import { spawn } from "../processes/spawn.js";
import { countStrays, createLookout, type Lookout, strays } from "../processes/strays.js";
import { pause, resume, sendSignal, terminate } from "../processes/supervisor.js";
import { find, type Table } from "../processes/table.js";
import type { Sampler } from "../processes/usage.js";
import type { Log } from "../runtime/log.js";
import { turn } from "../runtime/slices.js";
import { type Caller, callerFacts, exhaustion } from "./caller.js";
import { type Feed, type Listener, subscribe, tellStatus, unsubscribe } from "./feed.js";
import { describeContract } from "./openrpc.js";
import type { Call } from "./rpc.js";
import { followOutput } from "./tail.js";

/** What methods work on. */
export type House = {
  readonly table: Table;
  readonly feed: Feed;
  readonly sampler: Sampler;
  readonly version: string;
  /** What was found at start: kernel features by name, and why not where not. */
  readonly features: Readonly<Record<string, boolean | string>>;
  /** Of the limits, those that are not as they always are. */
  readonly bounds: Readonly<Partial<Limits>>;
};

type Handlers = {
  [M in Method]: (params: Checked<M>, caller: Caller) => Result<M> | Promise<Result<M>>;
};

function createHandlers(house: House): Handlers {
  const { table, feed, sampler } = house;
  const lookout = createLookout(table);
  const waits = new WeakMap<Listener, number>();
  return {
    spawn: (params, { behalf }) => spawn(table, params, behalf),
    terminate: (params, { behalf }) => terminate(table, params, behalf.viewer),
    signal: (params, { behalf }) => sendSignal(table, params, behalf.viewer),
    pause: (params, { behalf }) => pause(table, params, behalf.viewer),
    resume: (params, { behalf }) => resume(table, params, behalf.viewer),
    list: (params, { listener, behalf }) =>
      listener.inTurn(() => list(table, params, behalf.viewer)),
    status: (params, { behalf }) => inspect(table, params, behalf.viewer),
    wait: (params, { listener, behalf }) =>
      oneMore(waits, listener, () => wait(table, params, behalf.viewer, listener.onClose)),
    logs: (params, { listener, behalf }) =>
      listener.inTurn(() => logs(table, params, behalf.viewer)),
    usage: (params, { behalf }) => usage(table, sampler, params, behalf.viewer),
    subscribe: (params, caller) => listen(table, feed, params, caller),
    unsubscribe: ({ subscription }, { listener }) => ({
      unsubscribed: unsubscribe(feed, listener, subscription),
    }),
    strays: (params, { listener, behalf }) => {
      const work = () => strays(lookout, params, behalf.viewer);
      return params.end ? work() : listener.inTurn(work); // to end them no reader is waited for
    },
    info: (_, { listener, behalf }) => listener.inTurn(() => info(house, lookout, behalf.viewer)),
    "rpc.discover": (_, { listener }) =>
      listener.inTurn(() => turn().then(() => describeContract(house.version))),
  };
}

/** Wait for one more, unless this connection waits for as many as it may. */
async function oneMore<T>(
  waits: WeakMap<Listener, number>,
  listener: Listener,
  work: () => Promise<T>,
): Promise<T> {
  const count = waits.get(listener) ?? 0;
  if (count >= limits.waits) {
    const message = `A connection waits for at most ${limits.waits} ends at once: subscribe instead`;
    throw new Refusal("limit_exceeded", message, { limit: "waits" });
  }
  waits.set(listener, count + 1);
  try {
    return await work();
  } finally {
    waits.set(listener, (waits.get(listener) ?? 0) - 1);
  }
}

async function logs(
  table: Table,
  params: Checked<"logs">,
  viewer: Viewer,
): Promise<Result<"logs">> {
  const entry = find(table, params, viewer);
  const ended = isFinal(entry.state);
  const { atEnd, ...slice } = await readOutput(
    table.output,
    entry.id,
    params.stream,
    params,
    !ended,
  );
  await turn(); // to write it out takes long
  return { ...slice, ended: ended && atEnd };
}

async function listen(
  table: Table,
  feed: Feed,
  params: Checked<"subscribe">,
  { listener, behalf: { viewer } }: Caller,
): Promise<Result<"subscribe">> {
  const { output, ...address } = params;
  if (Object.keys(address).length === 0) {
    const sees = (owner: Process["owner"]) => controls(viewer, owner.uid);
    return { subscription: subscribe(feed, listener, null, sees).id };
  }
  const entry = find(table, address, viewer);
  const hadEnded = isFinal(entry.state);
  const subscription = subscribe(feed, listener, entry.id);
  const source = {
    id: entry.id,
    isWriting: () => !isFinal(entry.state),
    failed: ({ message }: Error) =>
      table.log.warning("cannot follow output", { id: entry.id, error: message }),
  };
  try {
    if (output) await followOutput(feed, subscription, table.output, source);
  } catch (error) {
    unsubscribe(feed, listener, subscription.id); // its name is told to nobody
    throw error;
  }
  // Whoever has spawned it cannot ask sooner. The answer comes first, that to a batch excepted.
  if (hadEnded) {
    const process = describe(entry);
    setImmediate(() => tellStatus(feed, subscription, { process, ended: true }));
  }
  return { subscription: subscription.id };
}

async function info(
  { table, version, features, bounds }: House,
  lookout: Lookout,
  viewer: Viewer,
): Promise<Result<"info">> {
  return {
    version,
    wire: WIRE_VERSION,
    pid: process.pid,
    uptimeMs: Math.round(process.uptime() * 1000),
    containment: table.containing.kind,
    kernel: { release: release(), ...features },
    counts: counts(table, viewer),
    strays: await countStrays(lookout, viewer),
    limits: { ...limits, ...bounds, ...table.history.bounds, outputBytes: table.output.capBytes },
  };
}

/** The calls of the contract, each checking its params first: `invalid_params` names the field. */
export function createCalls(house: House): Record<Method, Call<Caller>> {
  const handlers = createHandlers(house);
  const { log } = house.table;
  const entries = (Object.keys(methods) as Method[]).map((name) => {
    return [name, audited(name, checked(name, handlers), log)];
  });
  return Object.fromEntries(entries);
}

/** What changes anything. */
const changing: ReadonlySet<Method> = new Set([
  "spawn",
  "terminate",
  "signal",
  "pause",
  "resume",
  "strays",
]);

/** One record for each call that changes something, and for each that is denied: who, whom, how, what came of it. */
function audited(name: Method, call: Call<Caller>, log: Log): Call<Caller> {
  const isChanging = changing.has(name);
  return async (params, caller) => {
    try {
      const result = await call(params, caller);
      if (isChanging) audit(log, name, params, caller, "done", result);
      return result;
    } catch (cause) {
      const error = exhaustion(cause) ?? cause;
      const kind = error instanceof Refusal ? error.kind : "internal_error";
      if (isChanging || kind === "permission_denied") audit(log, name, params, caller, kind, null);
      throw error;
    }
  };
}

/** Of what was asked: whom and how, as far as it is short and well-formed; never a command or its environment. */
const told = ["id", "pid", "name", "user", "signal", "to", "force", "graceMs", "end"] as const;

function audit(
  log: Log,
  method: Method,
  params: unknown,
  { behalf }: Caller,
  outcome: string,
  result: unknown,
): void {
  log.info("audit", () => {
    const asked: Record<string, unknown> = { ...Object(params), ...identityIn(result) };
    const facts = told.flatMap((key): [string, unknown][] => {
      const value = asked[key];
      if (typeof value === "string") return [[key, value.slice(0, 64)]];
      return typeof value === "number" || typeof value === "boolean" ? [[key, value]] : [];
    });
    return { method, ...callerFacts(behalf), ...Object.fromEntries(facts), outcome };
  });
}

function identityIn(result: unknown): object {
  if (result === null || typeof result !== "object" || !("id" in result)) return {};
  return { id: result.id, ...("pid" in result ? { pid: result.pid } : {}) };
}

function checked<M extends Method>(name: M, handlers: Handlers): Call<Caller> {
  const schema: v.GenericSchema = methods[name].params;
  const handler = handlers[name];
  return (params, caller) => {
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
  const isOwnText = ["check", "regex", "safe_integer", "min_length"].includes(issue.type);
  return isOwnText ? issue.message : `expected ${issue.expected}`;
}
