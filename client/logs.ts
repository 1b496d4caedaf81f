// `procsup logs`: reading output to its end, and following it. Events only say that there is more;
// what is printed comes by offset, so nothing is printed twice and nothing is missed.

import type { Client } from "./client.js";
import type { Address, Stream } from "./wire.js";

export type LogOptions = { json?: boolean; stream?: Stream; lines?: number; follow?: boolean };

type Read = { from: number; next: number; oldest: number; ended: boolean };
type Document = Read & { text: string };

/**
 * Print the streams asked for, each to its own; with `json` nothing is printed and what was read is
 * returned: one document for one stream, one for each by name for both.
 */
export async function showLogs(
  client: Client,
  address: Address,
  options: LogOptions,
): Promise<unknown> {
  const streams: Stream[] = options.stream === undefined ? ["stdout", "stderr"] : [options.stream];
  const news = options.follow ? await listen(client, address) : null;
  const read = await Promise.all(
    streams.map(async (stream) => {
      const texts: string[] = [];
      const write = (text: string) => {
        if (options.json) texts.push(text);
        else process[stream].write(text);
      };
      const done = await readStream(client, { ...address, stream }, options.lines, news, write);
      return [stream, { text: texts.join(""), ...done }] satisfies [Stream, Document];
    }),
  );
  news?.close();
  return read.length === 1 ? read[0]?.[1] : Object.fromEntries(read);
}

async function readStream(
  client: Client,
  source: Address & { stream: Stream },
  lines: number | undefined,
  news: News | null,
  write: (text: string) => void,
): Promise<Read> {
  let heard = news?.count() ?? 0;
  let slice = await client.logs(lines === undefined ? source : { ...source, tailLines: lines });
  const { from } = slice;
  for (;;) {
    write(slice.text);
    const isDry = slice.text === "";
    if (slice.ended || (isDry && news === null)) return { ...slice, from };
    if (isDry) heard = (await news?.after(heard)) ?? heard;
    slice = await client.logs({ ...source, from: slice.next });
  }
}

type News = { count(): number; after(heard: number): Promise<number>; close(): void };

/** Counts what happens to a process; `after` resolves once there is more than was heard before. */
async function listen(client: Client, address: Address): Promise<News> {
  let count = 0;
  let wake: (() => void)[] = [];
  const hear = () => {
    count += 1;
    for (const each of wake) each();
    wake = [];
  };
  const off = client.onEvent(hear);
  await client.subscribe({ ...address, output: true });
  // A pending call keeps this program alive, and is the last word when the process ends. Should it
  // fail, so does the next reading call, and that one is reported.
  const ended = client.wait(address).then(hear, hear);
  return {
    count: () => count,
    async after(heard) {
      if (count === heard) await Promise.race([new Promise<void>((go) => wake.push(go)), ended]);
      return count;
    },
    close: off,
  };
}
