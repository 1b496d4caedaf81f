// Clients that are slow, greedy or gone, and those beside them who must not notice.

import { readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { equal, is, ok } from "uvu/assert";
import { connect as connectClient } from "../client/client.js";
import { limits, type Refusal } from "../client/wire.js";
import {
  assertServes,
  call,
  type Daemon,
  type Raw,
  type Reply,
  rssMib,
  startDaemon,
  theDaemonGoes,
  visitDaemon,
} from "./daemon.js";
import { scenario, until } from "./scenario.js";

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

scenario(
  "a tree of hundreds is told in one line, and others are answered meanwhile",
  async (scene) => {
    const daemon = await visitDaemon(scene);
    const [big, modest] = [await daemon.raw(), await daemon.raw()];
    const script =
      "n=0; while [ $n -lt 400 ]; do (while :; do sleep 1000; done) & n=$((n + 1)); done; wait";
    const command = ["sh", "-c", script, "sh", "x".repeat(4_000)];
    const { result } = await big.ask(call("spawn", { command, name: "wide" }));
    const status = () => big.ask(call("status", { name: "wide" }));
    const membersOf = (reply: Reply) => (reply.result?.["members"] ?? []) as { command: string }[];
    await until("all of it stands", async () => membersOf(await status()).length === 801, 12_000);
    const answered: string[] = [];
    const hear = (raw: Raw, who: string) =>
      raw.next().then((reply) => {
        answered.push(who);
        return reply;
      });
    const all = Promise.all([hear(big, "big"), hear(modest, "modest")]);
    process.kill(daemon.pid, "SIGSTOP");
    big.write(`${JSON.stringify(call("status", { name: "wide" }))}\n`);
    modest.write(`${JSON.stringify(call("status", { pid: 1 }))}\n`);
    process.kill(daemon.pid, "SIGCONT");
    const [told] = await all;
    equal(answered, ["modest", "big"]);
    ok(Buffer.byteLength(JSON.stringify(told)) <= limits.lineBytes);
    equal(membersOf(told)[0]?.command.slice(0, 5), "sh -c");
    const ended = await big.ask(call("terminate", { id: result?.["id"], graceMs: 5_000 }));
    equal([ended.result?.["ended"], ended.result?.["forced"]], [801, false]);
  },
);

scenario("whoever has had more than a share waits behind who has not", async (scene) => {
  const daemon = await startDaemon(scene);
  const spawnOf = (name: string) =>
    `${JSON.stringify(call("spawn", { command: ["true"], name, output: "null" }))}\n`;
  const greedy = await Promise.all(Array.from({ length: 24 }, () => daemon.raw()));
  const modest = await daemon.raw();
  const each = async (lines: number, send: () => void) => {
    send();
    for (const raw of greedy) for (let n = 0; n < lines; n++) ok((await raw.next()).result);
  };
  await each(4, () => {
    for (const [at, raw] of greedy.entries()) {
      raw.write(Array.from({ length: 4 }, (_, n) => spawnOf(`first-${at}-${n}`)).join(""));
    }
  });
  // On a busy machine each call may take long for want of a core: of so many not all do.
  for (let n = 0; n < 20; n++) ok((await modest.ask(call("status", { pid: 1 }))).error);
  // What is sent while it stands still it finds all at once, the modest one's last.
  await each(2, () => {
    process.kill(daemon.pid, "SIGSTOP");
    for (const [at, raw] of greedy.entries()) {
      raw.write(Array.from({ length: 2 }, (_, n) => spawnOf(`greedy-${at}-${n}`)).join(""));
    }
    modest.write(spawnOf("modest"));
    process.kill(daemon.pid, "SIGCONT");
  });
  ok((await modest.next()).result);
  const journal = readFileSync(join(daemon.state, "journal"), "utf8");
  const names = [...journal.matchAll(/"name":"(greedy|modest)/g)].map(([, name]) => name);
  is(names.length, 49);
  // Were all equal, each of the others would have its turn first.
  ok(names.indexOf("modest") < 18, names.join());
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

scenario("answers that all come at once are made as they are read", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const long = Array(8).fill("x".repeat(120_000));
  const { id } = await client.spawn({ command: ["sh", "-c", "exec sleep 1000", ...long] });
  const [raw, other] = [await daemon.raw(), await daemon.raw()];
  raw.socket.pause();
  const waits = 300;
  for (let n = 0; n < waits; n++) raw.write(`${JSON.stringify(call("wait", { id }, n))}\n`);
  await other.ask(call("info"));
  const before = rssMib(daemon);
  await client.terminate({ id });
  await assertServes(daemon);
  ok(rssMib(daemon, "VmHWM") - before < 60, `grew by ${rssMib(daemon, "VmHWM") - before} MiB`);
  raw.socket.resume();
  for (let n = 0; n < 20; n++) is((await raw.next()).id, n);
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
    const isPlace = async () => {
      const raw = await daemon.raw();
      return raw.ask(call("info")).then(
        (reply) => reply.result !== undefined,
        () => false,
      );
    };
    scene.after(async () => {
      for (const socket of sockets) socket.destroy();
      await until("there are places for whoever cleans up", isPlace);
    });
    await Promise.all(sockets.map((socket) => new Promise((go) => socket.once("connect", go))));
    sockets[0]?.write(`${JSON.stringify(call("info"))}\n`);
    await new Promise((go) => sockets[0]?.once("data", go));
    const refused = await daemon.raw();
    const { error } = await refused.next();
    equal([error?.code, error?.data?.["limit"]], [-32006, "connections"]);
    await refused.ended;
    // Our client knows why, even when it is busy while it is turned away, and writes only then.
    const client = await connectClient({ socket: daemon.socket });
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    const { kind, facts } = (await client.list({}).catch((cause: Refusal) => cause)) as Refusal;
    equal([kind, facts], ["limit_exceeded", { limit: "connections" }]);
    sockets[1]?.destroy();
    await until("there is a place again", isPlace);
  },
);

theDaemonGoes();
