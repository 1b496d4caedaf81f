// `procsup logs`: reading output to its end, and following it. Events only say that there is more;
// what is printed comes by offset, so nothing is printed twice and nothing is missed.

import type { Client } from "../client.js";
import type { Address, Stream } from "../wire.js";

export type LogOptions = { json?: boolean; stream?: Stream; lines?: number; follow?: boolean };

/** `missed`: bytes from where reading was to begin that the cap had freed before they could be read. */
type Read = { from: number; next: number; oldest: number; ended: boolean; missed: number };
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
      const write = async (text: string, missed: number) => {
        if (options.json) {
          texts.push(text);
          return;
        }
        if (missed > 0) await print("stderr", missedText(stream, missed));
        await print(stream, text);
      };
      const done = await readStream(client, { ...address, stream }, options.lines, news, write);
      return [stream, { ...done, text: texts.join("") }] satisfies [Stream, Document];
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
  write: (text: string, missed: number) => Promise<void>,
): Promise<Read> {
  // Who does not follow reads to where the end was: a process may write faster than it can be read.
  const end = news === null ? (await client.logs({ ...source, tailLines: 0 })).next : Infinity;
  let heard = news?.count() ?? 0;
  let slice = await client.logs(lines === undefined ? source : { ...source, tailLines: lines });
  const { from } = slice;
  let missed = lines === undefined ? from : 0;
  let missedNow = missed;
  for (;;) {
    await write(slice.text, missedNow);
    const isDry = slice.text === "";
    const isDone = slice.ended || slice.next >= end || (isDry && news === null);
    if (isDone) return { ...slice, from, missed };
    if (isDry) heard = (await news?.after(heard)) ?? heard;
    const { next } = slice;
    slice = await readFrom(client, source, next);
    missedNow = Math.max(0, slice.from - next);
    missed += missedNow;
  }
}

/** From there on, or from the beginning of a file that whoever opened it anew has emptied. */
async function readFrom(client: Client, source: Address & { stream: Stream }, from: number) {
  const ask = (begin: number) => client.logs({ ...source, from: begin });
  let slice = await ask(from);
  // While its cap is held it may be short for a moment, too.
  if (slice.from < from) slice = await ask(from);
  return slice.from < from ? ask(0) : slice;
}

function missedText(stream: Stream, missed: number): string {
  return `procsup: ${stream}: ${missed} bytes missed: the cap had freed them\n`;
}

/** Resolves when the text is on its way: a slow reader is waited for, not buffered for. */
function print(stream: Stream, text: string): Promise<void> {
  return new Promise((done) => void process[stream].write(text, () => done()));
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
  const close = client.onEvent(hear);
  await client.subscribe({ ...address, output: true });
  // A pending call keeps this program alive, and is the last word when the process ends. Should it
  // fail, so does the next reading call, and that one is reported.
  client.wait(address).then(hear, hear);
  return {
    count: () => count,
    async after(heard) {
      if (count === heard) await new Promise<void>((go) => wake.push(go));
      return count;
    },
    close,
  };
}
