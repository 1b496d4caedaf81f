// `list` has pages, since an answer is one line; people want all of them.

import type { Client, Params, Process } from "../client.js";

/** The processes of all pages. */
export async function listAll(client: Client, params: Params<"list">): Promise<Process[]> {
  const { processes, next } = await client.list(params);
  return next === null
    ? processes
    : [...processes, ...(await listAll(client, { ...params, after: next }))];
}
