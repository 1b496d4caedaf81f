// Whatever a scenario's calls are refused for must be what the contract says of their methods.

import { ok } from "uvu/assert";
import type { Client } from "../client/client.js";
import { type Kind, type Method, methods, Refusal } from "../client/wire.js";

/** Of every method: rpc.discover adds the first, and nobody plans the second. */
const unsaid: readonly Kind[] = ["invalid_params", "internal_error"];

/** Throws for a kind that the contract does not name. What is no method is refused by the protocol. */
function assertForeseen(method: unknown, kind: unknown): void {
  if (typeof method !== "string" || !Object.hasOwn(methods, method)) return;
  const said: readonly unknown[] = [...unsaid, ...methods[method as Method].refusals];
  ok(said.includes(kind), `${method} is refused as ${kind}: the contract does not say so`);
}

type Reply = { id?: unknown; error?: { data?: Record<string, unknown> } };

/** The reply to a message; refused connections and the protocol's own errors are not judged. */
export function foreseenReply<R extends Reply>(message: unknown, reply: R): R {
  const { method, id } = Object(message) as { method?: unknown; id?: unknown };
  const kind = reply.error?.data?.["kind"];
  if (reply.id === id && kind !== undefined) assertForeseen(method, kind);
  return reply;
}

/** The same client; its calls reject with the assertion where that fails. */
export function foreseenCalls(client: Client): Client {
  const judge = (method: string, error: unknown): never => {
    const isOwn = error instanceof Refusal && error.facts["limit"] === "lineBytes"; // it was not sent
    if (error instanceof Refusal && !isOwn) assertForeseen(method, error.kind);
    throw error;
  };
  const judged = Object.entries(client).map(([name, fn]) => {
    if (!Object.hasOwn(methods, name)) return [name, fn];
    const call = fn as (params: unknown) => Promise<unknown>;
    return [name, (params: unknown) => call(params).catch((error) => judge(name, error))];
  });
  const call: Client["call"] = (method, params) =>
    client.call(method, params).catch((error: unknown) => judge(method, error));
  return { ...(Object.fromEntries(judged) as Client), call };
}
