// `list` has pages, since an answer is one line; people want all of them.

import { type Client, type Params, type Process, Refusal } from "../client.js";

/** The last of a page may be forgotten before the next is asked for, many times over. */
const ATTEMPTS = 10;

/** The processes of all pages. */
export async function listAll(client: Client, params: Params<"list">): Promise<Process[]> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await listFrom(client, params);
    } catch (error) {
      const isForgotten = error instanceof Refusal && error.kind === "process_not_found";
      if (!isForgotten || attempt === ATTEMPTS) throw error;
    }
  }
}

async function listFrom(client: Client, params: Params<"list">): Promise<Process[]> {
  const { processes, next } = await client.list(params);
  return next === null
    ? processes
    : [...processes, ...(await listFrom(client, { ...params, after: next }))];
}
