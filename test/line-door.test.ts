// The line door: what is a line and what is not, what it may hold, and what of it is answered.

import { equal, is, match, ok } from "uvu/assert";
import { limits } from "../client/wire.js";
import {
  assertServes,
  call,
  configFile,
  type Raw,
  rssMib,
  startDaemon,
  theDaemonGoes,
  visitDaemon,
} from "./daemon.js";
import { scenario } from "./scenario.js";

const info = `${JSON.stringify(call("info"))}\n`;

/** Write as much as the daemon takes, in pieces, until done or cut off. */
async function pour({ socket }: Raw, pieces: number, piece: Buffer): Promise<void> {
  for (let count = 0; count < pieces && socket.writable; count++) {
    if (socket.write(piece)) continue;
    await new Promise<void>((go) => {
      socket.once("drain", go);
      socket.once("close", go);
    });
  }
}

scenario("replies find their callers over 50 connections with many calls each", async (scene) => {
  const daemon = await visitDaemon(scene);
  const raws = await Promise.all(Array.from({ length: 50 }, () => daemon.raw()));
  await Promise.all(
    raws.map(async (raw, at) => {
      for (let n = 0; n < 40; n++) raw.write(`${JSON.stringify(call("info", {}, `${at}.${n}`))}\n`);
      const ids: unknown[] = [];
      for (let n = 0; n < 40; n++) ids.push((await raw.next()).id);
      equal(ids.sort(), Array.from({ length: 40 }, (_, n) => `${at}.${n}`).sort());
    }),
  );
});

scenario("a client that half-closes still gets its replies, late ones too", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  const raw = await daemon.raw();
  raw.write(`${JSON.stringify(call("wait", { id }, 1))}\n${JSON.stringify(call("info", {}, 2))}\n`);
  raw.socket.end();
  is((await raw.next()).id, 2);
  await client.terminate({ id });
  is((await raw.next()).id, 1);
  await raw.ended;
});

scenario("half a line is no call: it is answered as a parse error at the end", async (scene) => {
  const daemon = await startDaemon(scene);
  const raw = await daemon.raw();
  raw.write(JSON.stringify(call("spawn", { command: ["sleep", "1000"] })));
  raw.socket.end();
  is((await raw.next()).error?.code, -32700);
  await raw.ended;
  is((await (await daemon.connect()).list({ all: true })).processes.length, 0);
});

scenario("a call split into single bytes is one call", async (scene) => {
  const raw = await (await visitDaemon(scene)).raw();
  raw.socket.setNoDelay(true);
  for (const byte of Buffer.from(info)) {
    await new Promise((go) => raw.socket.write(Buffer.from([byte]), go));
  }
  ok((await raw.next()).result);
});

scenario("random bytes are answered by errors and nothing else", async (scene) => {
  const args = configFile(scene, { faultsPerSecond: 1_000_000 });
  const daemon = await startDaemon(scene, { args });
  const raw = await daemon.raw();
  let seed = 1;
  const bytes = Buffer.from(
    Array.from({ length: 50_000 }, () => {
      seed = (seed * 48_271) % 2_147_483_647;
      return seed & 0xff;
    }),
  );
  raw.write(bytes.toString("latin1"));
  raw.socket.write(bytes);
  raw.write("\n");
  const lines = bytes.filter((byte) => byte === 10).length * 2 + 1;
  for (let count = 0; count < lines; count++) {
    const code = (await raw.next()).error?.code ?? 0;
    ok(code === -32700 || code === -32600, String(code));
  }
  ok((await raw.ask(call("info"))).result);
});

scenario("a 200 MB line is cut at the limit, with one error and flat memory", async (scene) => {
  const daemon = await startDaemon(scene);
  await assertServes(daemon);
  const before = rssMib(daemon);
  const raw = await daemon.raw();
  await pour(raw, 200, Buffer.alloc(1 << 20, "x"));
  const { error } = await raw.next();
  equal([error?.code, error?.data?.["limit"]], [-32600, "lineBytes"]);
  await raw.ended;
  ok(rssMib(daemon) - before < 30, `grew by ${rssMib(daemon) - before} MiB`);
  await assertServes(daemon);
});

scenario("a line of the longest allowed length is answered", async (scene) => {
  const raw = await (await visitDaemon(scene)).raw();
  const line = JSON.stringify(call("info"));
  raw.write(`${line}${" ".repeat(limits.lineBytes - line.length)}\n`);
  ok((await raw.next()).result);
});

scenario("a batch of 100,000 calls is refused whole", async (scene) => {
  const daemon = await visitDaemon(scene);
  const raw = await daemon.raw();
  raw.write(`[${Array(100_000).fill("1").join(",")}]\n`);
  is((await raw.next()).error?.code, -32600);
  await assertServes(daemon);
});

scenario(
  "a text may nest to its limit and hold its limit of values, and not one more",
  async (scene) => {
    const daemon = await visitDaemon(scene);
    const { ask } = await daemon.raw();
    const nested = (depth: number) =>
      JSON.parse(`${"[".repeat(depth)}${"]".repeat(depth)}`) as object;
    const long = 'x"\\'.repeat(100); // quotes and backslashes that must not be taken for structure
    const limitOf = async (params: object) => {
      const { error } = await ask(call("info", params));
      return error?.data?.["limit"] ?? error?.code;
    };
    // The text itself and its params are two levels and, with what is in them, seven values.
    is(await limitOf({ "]": nested(limits.nesting - 2), long }), -32602);
    is(await limitOf({ "]": nested(limits.nesting - 1), long }), "nesting");
    is(await limitOf({ long, many: Array(limits.values - 7).fill(0) }), -32602);
    is(await limitOf({ long, many: Array(limits.values - 6).fill(0) }), "values");
  },
);

scenario("a mebibyte of brackets is refused before it is parsed", async (scene) => {
  const args = configFile(scene, { faultsPerSecond: 1_000_000 });
  const daemon = await startDaemon(scene, { args });
  const raw = await daemon.raw();
  for (const [piece, limit] of [
    ["[", "nesting"],
    ['{"a":', "nesting"],
    ["{},", "values"],
    ['"a":0,', "values"],
  ] as const) {
    raw.write(`[${piece.repeat(1_000_000 / piece.length)}\n`);
    const { error } = await raw.next();
    equal([error?.code, error?.data?.["limit"]], [-32600, limit]);
  }
  // Escapes and an open string are no structure: this is just no JSON.
  raw.write(`"${'\\"['.repeat(300_000)}\n`);
  is((await raw.next()).error?.code, -32700);
  await assertServes(daemon);
});

scenario("a batch whose answers outgrow a line is refused part by part", async (scene) => {
  const daemon = await visitDaemon(scene);
  const raw = await daemon.raw();
  const client = await daemon.connect();
  const { id } = await client.spawn({ command: ["true", "x".repeat(100_000)] });
  const batch = Array.from({ length: 20 }, (_, n) => call("status", { id }, n));
  const replies = (await raw.ask(batch)) as { id?: unknown; error?: { code: number } }[];
  equal(
    replies.map((reply) => reply.id),
    batch.map((one) => one.id),
  );
  ok(replies.some(({ error }) => error?.code === -32006));
  ok(replies.some(({ error }) => error === undefined));
  ok(JSON.stringify(replies).length <= limits.lineBytes);
});

scenario("of a batch no more is held than fits into its answer", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const { id } = await client.spawn({ command: ["head", "-c", `${limits.logBytes}`, "/dev/zero"] });
  await client.wait({ id });
  const raw = await daemon.raw();
  const parts = Array.from({ length: limits.batchCalls }, (_, n) => call("logs", { id }, n));
  const before = rssMib(daemon);
  // Kept until the last is there they would be 125 MiB, and be put into words with all of them at hand.
  raw.write(`${JSON.stringify(parts)}\n`.repeat(10));
  for (let batch = 0; batch < 10; batch++) await raw.next();
  const grownMib = rssMib(daemon, "VmHWM") - before;
  ok(grownMib < 150, `${grownMib} MiB`);
});

scenario("past the calls that may be under way a connection is read no further", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  const waits = (count: number) => Array.from({ length: count }, (_, n) => call("wait", { id }, n));
  const behind = (name: string) => JSON.stringify(call("spawn", { command: ["true"], name }));
  // A batch counts as what it may hold.
  const batches = Math.ceil(limits.callsInFlight / limits.batchCalls);
  const half = JSON.stringify(waits(limits.batchCalls / 2));
  const lines = { batches: Array(batches).fill(half) as string[] };
  const raws: [Raw, number][] = [];
  for (const [name, all] of Object.entries(lines)) {
    const raw = await daemon.raw();
    raw.write(`${[...all, behind(name)].join("\n")}\n`);
    raws.push([raw, all.length + 1]);
  }
  // Time enough for what may be read.
  for (let count = 0; count < 300; count++) await client.info({});
  const { processes } = await client.list({ all: true });
  equal(
    processes.map(({ name }) => name).filter((name) => name !== null && name in lines),
    [],
  );
  await client.terminate({ id });
  for (const [raw, count] of raws) for (let n = 0; n < count; n++) await raw.next();
});

scenario(
  "however many wait on a connection, who ends what they wait for is heard",
  async (scene) => {
    const client = await (await visitDaemon(scene)).connect();
    const { id } = await client.spawn({ command: ["sleep", "1000"] });
    const count = limits.callsInFlight + 10;
    const waits = Promise.allSettled(Array.from({ length: count }, () => client.wait({ id })));
    is((await client.terminate({ id })).status, "terminated");
    const refused = (await waits).filter((one) => one.status === "rejected");
    is(refused.length, count - limits.waits);
    match(String(refused[0]?.reason), /at most 960 ends at once: subscribe instead/);
  },
);

theDaemonGoes();
