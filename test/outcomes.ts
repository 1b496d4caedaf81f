// What comes of a call, or of a command, in one word or text.

import type { Client } from "../client/client.js";
import { Refusal } from "../client/wire.js";

/** The kind of the refusal that a call gets; any other error as text. */
export async function kindOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "no refusal",
    (error: unknown) => (error instanceof Refusal ? error.kind : String(error)),
  );
}

/** All that a command writes to its stdout until its end. */
export async function outputOf(
  client: Client,
  params: Parameters<Client["spawn"]>[0],
): Promise<string> {
  const { id } = await client.spawn(params);
  await client.wait({ id });
  return (await client.logs({ id })).text;
}
