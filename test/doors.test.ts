// Both doors, opened here before calls and limits of a scenario's own: a method with a bug, few connections,
// and times that nobody wants to wait for.

import { spawn } from "node:child_process";
import { chmodSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import { connect as connectClient } from "../client/client.js";
import { type Limits, limits } from "../client/wire.js";
import { serve } from "../daemon/doors/accept.js";
import { peerOf } from "../daemon/doors/caller.js";
import { createHttpDoor } from "../daemon/doors/http.js";
import { createLineDoor } from "../daemon/doors/line.js";
import { createPatience } from "../daemon/doors/patience.js";
import { type Call, createAnswer } from "../daemon/doors/rpc.js";
import { turn } from "../daemon/runtime/slices.js";
import { call, openRaw, startDaemon } from "./daemon.js";
import { ask, assertFailed, failure, openWire, type Response, requestText, route } from "./http.js";
import { type Scene, scenario, skipped, until } from "./scenario.js";

type Short = { socket: string; close: (graceMs: number) => Promise<void> };

/** The same doors as the daemon's, before calls and limits of the scenario's own. */
async function serveShort(
  scene: Scene,
  calls: Record<string, Call<null>>,
  bounds: Partial<Limits> = {},
  uidOf: (connection: net.Socket) => number = () => 0,
): Promise<Short> {
  const socket = join(scene.folder, "short");
  const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true });
  const answer = createAnswer(calls, () => "ref");
  const all = { ...limits, ...bounds };
  const doors = { line: createLineDoor(answer), http: createHttpDoor(answer, () => false, all) };
  const close = serve(
    server,
    doors,
    (connection) => ({
      uid: uidOf(connection),
      patience: createPatience()(0),
      callerOf: () => null,
    }),
    all,
  );
  scene.after(async () => {
    server.close();
    await close(0, false);
  });
  await new Promise<void>((ready) => server.listen(socket, ready));
  return { socket, close: (graceMs) => close(graceMs, false) };
}

scenario("a bug is a 500 with a reference and nothing else", async (scene) => {
  const crash: Call<null> = () => {
    throw new Error("secret path /etc/shadow");
  };
  const { socket } = await serveShort(scene, { terminate: crash });
  const response = await ask(socket, route(5));
  assertFailed(response, 500, "internal_error");
  equal(failure(response), {
    error: "Server error: see the daemon's log, reference ref",
    kind: "internal_error",
  });
});

scenario("who says nothing is closed in time, who said one byte is not", async (scene) => {
  const { socket } = await serveShort(scene, {}, { firstByteMs: 50 });
  const line = await openRaw(scene, socket);
  line.write(" ");
  const silent = await openWire(scene, socket);
  equal(await silent.rest(), []);
  is((await line.ask(call("nothing"))).error?.code, -32601);
});

scenario("requests of a connection that has to wait its turn keep their order", async (scene) => {
  const order: unknown[] = [];
  const { socket } = await serveShort(scene, {
    // It takes more than a share, and fills the turns that come.
    greedy: () => {
      const untilMs = performance.now() + 5;
      while (performance.now() < untilMs);
      for (let turns = 0; turns < 5_000; turns++) void turn();
      return "done";
    },
    note: (params) => order.push(params),
  });
  const wire = await openWire(scene, socket);
  const rpc = (method: string, params: object = {}) =>
    requestText("POST /rpc", JSON.stringify(call(method, params)));
  wire.socket.write(rpc("greedy") + rpc("note", { n: 1 }));
  is((await wire.next()).status, 200);
  wire.socket.write(rpc("note", { n: 2 }));
  for (let answers = 0; answers < 2; answers++) is((await wire.next()).status, 200);
  equal(order, [{ n: 1 }, { n: 2 }]);
});

scenario("a head and a body that trickle are answered 408", async (scene) => {
  const { socket } = await serveShort(scene, {}, { requestMs: 50 });
  for (const text of ["POST /rpc HTTP/1.1\r\nHo", requestText("POST /rpc", "{}").slice(0, -1)]) {
    const wire = await openWire(scene, socket);
    wire.socket.write(text);
    const responses = await wire.rest();
    assertFailed(responses[0] as Response, 408, "invalid_request", text);
    is(responses.length, 1);
  }
});

scenario(
  "an idle connection is closed without a word, one that awaits an answer is not",
  async (scene) => {
    const held: (() => void)[] = [];
    const hold: Call<null> = () => new Promise<string>((go) => held.push(() => go("held")));
    const { socket } = await serveShort(scene, { hold }, { idleMs: 50, requestMs: 50 });
    const waiting = await openWire(scene, socket);
    waiting.socket.write(requestText("POST /rpc", JSON.stringify(call("hold"))));
    const idle = await openWire(scene, socket);
    idle.socket.write(`${requestText("GET /healthz")}GET /hea`);
    equal(
      (await idle.rest()).map(({ status }) => status),
      [200],
    );
    for (const go of held) go();
    is((await waiting.next()).status, 200);
  },
);

scenario("closing waits for the answers under way, and ends the idle at once", async (scene) => {
  const held: (() => void)[] = [];
  const hold: Call<null> = () => new Promise<string>((go) => held.push(() => go("held")));
  const { socket, close } = await serveShort(scene, { hold });
  const wires = await Promise.all([1, 2, 3].map(() => openWire(scene, socket)));
  const [waiting, idle, silent] = wires;
  waiting?.socket.write(requestText("POST /rpc", JSON.stringify(call("hold"))));
  idle?.socket.write(requestText("GET /healthz"));
  is((await idle?.next())?.status, 200);
  await until("it is held", () => held.length === 1);
  const closed = close(5_000);
  equal([await idle?.rest(), await silent?.rest()], [[], []]);
  for (const go of held) go();
  const answered = await waiting?.next();
  equal([answered?.status, answered?.headers["connection"]], [200, "close"]);
  await closed;
});

scenario(
  "one user's flood leaves room for others, and all together leave some for root",
  async (scene) => {
    const bounds = { connections: 8, connectionsPerUser: 4, connectionsReserved: 2 };
    let uid = 0;
    const { socket } = await serveShort(scene, { ping: () => 1 }, bounds, () => uid);
    const outcome = async (who: number) => {
      uid = who;
      const { error, result } = await (await openRaw(scene, socket)).ask(call("ping"));
      return error?.data?.["limit"] ?? result;
    };
    const come = async (who: number, times: number) => {
      const outcomes: unknown[] = [];
      for (let n = 0; n < times; n++) outcomes.push(await outcome(who));
      return outcomes;
    };
    equal(await come(1001, 5), [1, 1, 1, 1, "connectionsPerUser"]);
    equal(await come(1002, 3), [1, 1, "connections"]);
    equal(await come(0, 3), [1, 1, "connections"]);
  },
);

/** Three connections at once, one after the other, each with a call. */
const visit = `
  const { connect } = require("node:net");
  const come = (left) => {
    const socket = connect(process.argv[1]);
    socket.write('{"jsonrpc":"2.0","id":1,"method":"ping"}\\n');
    socket.once("data", (chunk) => { console.log(String(chunk).trim()); if (left > 1) come(left - 1); });
  };
  come(3);
`;

const kernel = "whose connections they are is the kernel's word";
if (process.getuid?.() !== 0) {
  skipped(kernel, "needs root, to connect as another user");
} else {
  scenario(kernel, async (scene) => {
    const uidOf = (connection: net.Socket) => peerOf(connection).uid;
    const bounds = { connectionsPerUser: 2 };
    const { socket } = await serveShort(scene, { ping: () => 1 }, bounds, uidOf);
    chmodSync(scene.folder, 0o711);
    chmodSync(socket, 0o666);
    const other = { uid: 65_534, gid: 65_534, cwd: "/" };
    const visitor = spawn(process.execPath, ["-e", visit, socket], other);
    scene.after(() => void visitor.kill("SIGKILL"));
    const said: string[] = [];
    visitor.stdout.on("data", (chunk: Buffer) => said.push(chunk.toString()));
    const answers = await until("three answers", () => {
      const lines = said.join("").trim().split("\n");
      return lines.length === 3 && lines;
    });
    equal(answers.filter((line) => line.includes("connectionsPerUser")).length, 1);
    is((await (await openRaw(scene, socket)).ask(call("ping"))).result, 1);
  });
}

scenario("who is turned away is told in the language it speaks", async (scene) => {
  const { socket } = await serveShort(scene, {}, { connections: 1 });
  const first = await openRaw(scene, socket);
  first.write(" ");
  const over = await ask(socket, "/healthz", { method: "GET" });
  assertFailed(over, 429, "limit_exceeded");
  match(failure(over).error, /1 connections already/);
  const line = await openRaw(scene, socket);
  is((await line.next()).error?.data?.["limit"], "connections");
});

scenario("a place is free again when a user's connection ends", async (scene) => {
  const { socket } = await serveShort(scene, { ping: () => 1 }, { connectionsPerUser: 2 }, () => 1);
  for (let count = 0; count < 5; count++) {
    await until("there is a place", async () => {
      const raw = await openRaw(scene, socket);
      const { result } = await raw.ask(call("ping"));
      raw.socket.destroy();
      return result !== undefined;
    });
  }
});

scenario("our client is not taken for one that says nothing", async (scene) => {
  const { socket } = await serveShort(scene, { info: () => ({}) }, { firstByteMs: 50 });
  const client = await connectClient({ socket });
  await (await openRaw(scene, socket)).ended; // it says nothing
  ok(await client.info({}));
  client.close();
});

scenario("every limit is shown by info", async (scene) => {
  const { limits: shown } = await (await (await startDaemon(scene)).connect()).info({});
  for (const [name, bound] of Object.entries(limits)) is(shown[name], bound, name);
});
