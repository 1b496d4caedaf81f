// Clients that are slow, greedy, broken or hostile, and those beside them who must not notice.

import { readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { equal, is, ok } from "uvu/assert";
import { limits } from "../client/wire.js";
import {
  call,
  configFile,
  type Daemon,
  type Raw,
  rssMib,
  startDaemon,
  theDaemonGoes,
  visitDaemon,
} from "./daemon.js";
import { scenario, until, within } from "./scenario.js";

const info = `${JSON.stringify(call("info"))}\n`;

/** The daemon is alive and answers somebody else at once. */
async function assertServes(daemon: Daemon): Promise<void> {
  const { ask, socket } = await daemon.raw();
  ok((await within(2_000, "an answer", () => ask(call("info")))).result);
  socket.destroy();
}

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

scenario("others get their turns between the calls of a batch", async (scene) => {
  const daemon = await visitDaemon(scene);
  const [greedy, modest] = [await daemon.raw(), await daemon.raw()];
  const spawning = Array.from({ length: limits.batchCalls }, (_, n) =>
    call("spawn", { command: ["true"] }, n),
  );
  let over = false;
  const batch = greedy.ask(spawning).then(() => {
    over = true;
  });
  let answered = 0;
  for (; !over; answered++) ok((await modest.ask(call("status", { pid: 1 }))).error);
  await batch;
  // Begun all in one turn of the daemon, they let through one or two.
  ok(answered >= 10, `${answered} answered meanwhile`);
});

scenario("long calls that come all at once let short ones through", async (scene) => {
  const daemon = await visitDaemon(scene);
  const many = await Promise.all(Array.from({ length: 20 }, () => daemon.raw()));
  const modest = await daemon.raw();
  const ask = call("status", { pid: 1 });
  // It is known for short calls by then, of the others anything may be expected.
  for (let n = 0; n < 20; n++) ok((await modest.ask(ask)).error);
  const answered: string[] = [];
  const hear = (raw: Raw, who: string) => raw.next().then(() => answered.push(who));
  const all = [...many.map((raw) => hear(raw, "spawn")), hear(modest, "status")];
  // What is sent while it stands still it finds all at once, the short one last.
  process.kill(daemon.pid, "SIGSTOP");
  for (const raw of many) raw.write(`${JSON.stringify(call("spawn", { command: ["true"] }))}\n`);
  modest.write(`${JSON.stringify(ask)}\n`);
  process.kill(daemon.pid, "SIGCONT");
  await Promise.all(all);
  is(answered.length, 21);
  ok(answered.indexOf("status") < 10, answered.join());
});

scenario("whoever has had more than a share waits behind who has not", async (scene) => {
  const daemon = await startDaemon(scene);
  const spawnOf = (name: string) =>
    `${JSON.stringify(call("spawn", { command: ["true"], name, output: "null" }))}\n`;
  const greedy = await Promise.all(Array.from({ length: 8 }, () => daemon.raw()));
  const modest = await daemon.raw();
  ok((await modest.ask(call("list"))).result);
  const each = async (lines: number, send: () => void) => {
    send();
    for (const raw of greedy) for (let n = 0; n < lines; n++) ok((await raw.next()).result);
  };
  await each(8, () => {
    for (const [at, raw] of greedy.entries()) {
      raw.write(Array.from({ length: 8 }, (_, n) => spawnOf(`first-${at}-${n}`)).join(""));
    }
  });
  // What is sent while it stands still it finds all at once, the modest one's last.
  await each(4, () => {
    process.kill(daemon.pid, "SIGSTOP");
    for (const [at, raw] of greedy.entries()) {
      raw.write(Array.from({ length: 4 }, (_, n) => spawnOf(`greedy-${at}-${n}`)).join(""));
    }
    modest.write(spawnOf("modest"));
    process.kill(daemon.pid, "SIGCONT");
  });
  ok((await modest.next()).result);
  const journal = readFileSync(join(daemon.state, "journal"), "utf8");
  const names = [...journal.matchAll(/"name":"(greedy|modest)/g)].map(([, name]) => name);
  is(names.length, 33);
  ok(names.indexOf("modest") < 6, names.join());
});

/** What the daemon has asked the kernel to watch. man 5 proc_pid_fdinfo. */
function watchesOf({ pid }: Daemon): number {
  const folder = `/proc/${pid}/fdinfo`;
  const textOf = (fd: string) => {
    try {
      return readFileSync(join(folder, fd), "latin1");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return ""; // closed meanwhile
      throw error;
    }
  };
  return (
    readdirSync(folder)
      .map(textOf)
      .join("")
      .match(/^inotify wd:/gm)?.length ?? 0
  );
}

scenario("what a client asks for that is gone by then does not stay", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  const watches = watchesOf(daemon);
  const gone = await daemon.raw();
  const last = call("spawn", { command: ["true"], name: "last" }, "last");
  const follow = call("subscribe", { id, output: true });
  // The first answer tells the daemon that nobody is there, and the batch is still under way.
  process.kill(daemon.pid, "SIGSTOP");
  gone.write(`${JSON.stringify([...Array(90).fill(follow), last])}\n`);
  gone.write(`${JSON.stringify(call("status", { id }))}\n`);
  await new Promise<void>((written) => gone.socket.write("", () => written()));
  gone.socket.destroy();
  process.kill(daemon.pid, "SIGCONT");
  await until("all of it is done", async () => {
    const { processes } = await client.list({ all: true });
    return processes.some(({ name }) => name === "last");
  });
  await until("nothing is watched for it", () => watchesOf(daemon) <= watches);
});

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

scenario("a reader that does not read is held back, and memory stays flat", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  for (let count = 0; count < 40; count++) {
    const { id } = await client.spawn({ command: ["true", "x".repeat(100_000)] });
    await client.wait({ id });
  }
  const before = rssMib(daemon);
  const raw = await daemon.raw();
  raw.socket.pause();
  const all = Buffer.from(`${JSON.stringify(call("list", { all: true }))}\n`.repeat(1_000));
  // 1,000 answers of 3 MB each, in pages of 0.7 MB; whatever is not taken stays with the sender.
  raw.socket.write(all);
  for (let count = 0; count < 50; count++) await assertServes(daemon);
  ok(rssMib(daemon) - before < 60, `grew by ${rssMib(daemon) - before} MiB`);
  raw.socket.destroy();
});

scenario("200 idle connections cost little", async (scene) => {
  const daemon = await startDaemon(scene);
  await assertServes(daemon);
  const before = rssMib(daemon);
  const raws = await Promise.all(Array.from({ length: 200 }, () => daemon.raw()));
  await assertServes(daemon);
  ok(rssMib(daemon) - before < 20, `grew by ${rssMib(daemon) - before} MiB`);
  for (const { socket } of raws) socket.destroy();
});

scenario(
  "a subscriber that never reads loses events, is told how many, and costs little",
  async (scene) => {
    const daemon = await startDaemon(scene);
    const client = await daemon.connect();
    const raw = await daemon.raw();
    await raw.ask(call("subscribe"));
    raw.socket.pause();
    const long = "x".repeat(50_000);
    const before = rssMib(daemon);
    for (let count = 0; count < 300; count++) {
      const { id } = await client.spawn({ command: ["true", long] });
      await client.wait({ id });
    }
    ok(rssMib(daemon) - before < 60, `grew by ${rssMib(daemon) - before} MiB`);
    raw.socket.resume();
    let events = 0;
    for (;;) {
      const { params } = await raw.next();
      if (params?.["event"] === "dropped") {
        is(events + Number(params["count"]), 600);
        return;
      }
      events += 1;
    }
  },
  60_000,
);

scenario(
  "connections past the limit are refused in a sentence, and free places are used",
  async (scene) => {
    const daemon = await visitDaemon(scene);
    const sockets = Array.from({ length: limits.connections }, () => connect(daemon.socket));
    scene.after(() => {
      for (const socket of sockets) socket.destroy();
    });
    await Promise.all(sockets.map((socket) => new Promise((go) => socket.once("connect", go))));
    sockets[0]?.write(info);
    await new Promise((go) => sockets[0]?.once("data", go));
    const refused = await daemon.raw();
    const { error } = await refused.next();
    equal([error?.code, error?.data?.["limit"]], [-32006, "connections"]);
    await refused.ended;
    sockets[1]?.destroy();
    await until("there is a place again", async () => {
      const raw = await daemon.raw();
      return raw.ask(call("info")).then(
        (reply) => reply.result !== undefined,
        () => false,
      );
    });
  },
);

scenario("more calls than may be in flight are all answered, in their time", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  const raw = await daemon.raw();
  const waits = limits.callsInFlight + 200;
  for (let n = 0; n < waits; n++) raw.write(`${JSON.stringify(call("wait", { id }, n))}\n`);
  await assertServes(daemon);
  await client.terminate({ id });
  const ids = new Set<unknown>();
  for (let n = 0; n < waits; n++) ids.add((await raw.next()).id);
  is(ids.size, waits);
});

theDaemonGoes();
