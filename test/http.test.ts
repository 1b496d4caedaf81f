// The HTTP door beside the contract's route: its other paths, and what becomes of connections. The limits of
// time and number are in doors.test.ts.

import http from "node:http";
import { equal, is, match } from "uvu/assert";
import { kinds, limits } from "../client/wire.js";
import { spawnReady, testProgram } from "./commands.js";
import { call, startDaemon, theDaemonGoes, visitDaemon } from "./daemon.js";
import {
  ask,
  assertFailed,
  failure,
  json,
  nobody,
  openWire,
  post,
  type Response,
  requestText,
  route,
} from "./http.js";
import { scenario, until } from "./scenario.js";

// --- the other paths ------------------------------------------------------------------------

scenario("POST /rpc answers whatever a line would be answered", async (scene) => {
  const { socket } = await visitDaemon(scene);
  const rpc = (body: string) => ask(socket, "/rpc", { headers: json, body });
  const one = await rpc(JSON.stringify(call("info")));
  is((JSON.parse(one.text) as { result: { wire: number } }).result.wire, 1);
  const notification = await rpc('{"jsonrpc":"2.0","method":"info"}');
  equal([notification.status, notification.text], [204, ""]);
  for (const [body, code] of [
    ["{", -32700],
    ["", -32700],
    ["[]", -32600],
    ["1", -32600],
    [JSON.stringify(Array(limits.batchCalls + 1).fill(call("info"))), -32600],
    ["[".repeat(1_000), -32600],
  ] as const) {
    const { status, text } = await rpc(body);
    equal([status, (JSON.parse(text) as { error: { code: number } }).error.code], [200, code]);
  }
});

scenario("events cannot be sent over HTTP, and subscribe says so", async (scene) => {
  const { socket } = await visitDaemon(scene);
  const { text } = await post(socket, "/rpc", call("subscribe"));
  const { error } = JSON.parse(text) as { error: { code: number; message: string } };
  is(error.code, kinds.invalid_request.code);
  match(error.message, /use line JSON-RPC/);
});

scenario("the contract and the daemon's health are there to be read", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const get = (path: string, method = "GET") => ask(daemon.socket, path, { method });
  equal(JSON.parse((await get("/openrpc.json")).text), await client.call("rpc.discover", {}));
  const health = await get("/healthz");
  equal([health.status, health.text], [200, '{"status":"ok"}\n']);
  const head = await get("/healthz", "HEAD");
  equal([head.status, head.headers["content-length"], head.text], [200, "16", ""]);
  await spawnReady(client, testProgram("ignores-term.sh"));
  daemon.child.kill("SIGTERM");
  const gone = await until("it says so", async () => {
    const response = await get("/healthz");
    return response.status === 503 && response;
  });
  is(gone.text, '{"status":"stopping"}\n');
});

// --- connections ----------------------------------------------------------------------------

scenario("a kept-alive connection serves one request after the other", async (scene) => {
  const { socket } = await visitDaemon(scene);
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  scene.after(() => agent.destroy());
  const reused: boolean[] = [];
  for (const body of ["", "{}", '{"force":1}', "{", "", "{}"]) {
    reused.push((await ask(socket, nobody, { agent, headers: json, body })).reused);
  }
  equal(reused, [false, true, true, true, true, true]);
});

scenario("pipelined requests are answered in their order, slow ones first", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const { id, pid } = await client.spawn({ command: ["sleep", "1000"] });
  const wire = await openWire(scene, daemon.socket);
  const waiting = JSON.stringify(call("wait", { id }));
  wire.socket.write(
    requestText("POST /rpc", waiting) +
      requestText(`POST ${nobody}`, "{}") +
      requestText(`POST ${route(pid)}`) +
      requestText("GET /healthz", "", ["Connection: close"]),
  );
  equal(
    (await wire.rest()).map(({ status }) => status),
    [200, 404, 200, 200],
  );
});

scenario("past the requests that may be under way one is refused and the last", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  const wire = await openWire(scene, daemon.socket);
  const waiting = requestText("POST /rpc", JSON.stringify(call("wait", { id })));
  wire.socket.write(waiting.repeat(limits.requestsInFlight + 5));
  await ask(daemon.socket, "/healthz", { method: "GET" });
  await client.terminate({ id });
  const responses = await wire.rest();
  const good = Array(limits.requestsInFlight).fill(200);
  equal(
    responses.map(({ status }) => status),
    [...good, 429],
  );
  is(failure(responses[good.length] as Response).kind, "limit_exceeded");
});

scenario(
  "a request in single bytes is one request, and half-closing waits for it",
  async (scene) => {
    const daemon = await visitDaemon(scene);
    const client = await daemon.connect();
    const { pid } = await client.spawn({ command: ["sleep", "1000"] });
    const wire = await openWire(scene, daemon.socket);
    for (const byte of Buffer.from(requestText(`POST ${route(pid)}`, '{"force":true}'))) {
      await new Promise((go) => wire.socket.write(Buffer.from([byte]), go));
    }
    wire.socket.end();
    equal(
      (await wire.rest()).map(({ status }) => status),
      [200],
    );
  },
);

scenario("a caller that hangs up changes nothing", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const { id, pid } = await spawnReady(client, testProgram("ignores-term.sh"), { graceMs: 300 });
  const wire = await openWire(scene, daemon.socket);
  wire.socket.write(requestText(`POST ${route(pid)}`));
  await until("it is asked", async () => (await client.status({ id })).status === "stopping");
  wire.socket.destroy();
  const { process: ended } = await client.wait({ id });
  equal([ended.status, ended.signal], ["terminated", "SIGKILL"]);
});

const broken: [string, string, number, string][] = [
  ["no HTTP", "HELLO\r\n\r\n", 400, "invalid_request"],
  ["HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_request"],
  ["no Host", "GET /healthz HTTP/1.1\r\n\r\n", 400, "invalid_request"],
  ["a bad header", requestText("GET /", "", ["a b: c"]), 400, "invalid_request"],
  ["an expectation", requestText("POST /rpc", "{}", ["Expect: more"]), 417, "invalid_request"],
  ["two lengths", requestText("POST /rpc", "{}", ["Content-Length: 3"]), 400, "invalid_request"],
  [
    "a negative length",
    requestText("POST /rpc", "", ["Content-Length: -1"]),
    400,
    "invalid_request",
  ],
  [
    "length and chunks",
    requestText("POST /rpc", "{}", ["Transfer-Encoding: chunked"]),
    400,
    "invalid_request",
  ],
  [
    "a bad chunk",
    `${requestText("POST /rpc", "", ["Transfer-Encoding: chunked"])}zz\r\n`,
    400,
    "invalid_request",
  ],
  ["a long head", requestText("GET /", "", [`a: ${"x".repeat(20_000)}`]), 431, "invalid_request"],
  ["a long path", requestText(`GET /${"x".repeat(20_000)}`), 431, "invalid_request"],
];

scenario("what is no request is answered so, in its turn, and is the last", async (scene) => {
  const daemon = await visitDaemon(scene);
  const good = requestText("GET /healthz");
  for (const [what, text, status, kind] of broken) {
    const wire = await openWire(scene, daemon.socket);
    wire.socket.write(good + text);
    // Without a Host a request is refused but whole: the connection goes on.
    if (what === "no Host") wire.socket.end();
    const [first, last, ...more] = await wire.rest();
    equal([first?.status, more], [200, []], what);
    assertFailed(last ?? { status: 0, headers: {}, text: "{}" }, status, kind, what);
  }
  const old = await openWire(scene, daemon.socket);
  old.socket.write("GET /healthz HTTP/1.0\r\n\r\n");
  equal(
    (await old.rest()).map(({ status }) => status),
    [200],
  );
  const upgrade = ["Connection: upgrade", "Upgrade: websocket"];
  for (const text of ["POST /rpc HT", requestText("POST /rpc", "{}", upgrade).slice(0, -1)]) {
    const cut = await openWire(scene, daemon.socket);
    cut.socket.end(text);
    assertFailed(await cut.next(), 400, "invalid_request", text);
  }
  is(daemon.log.join("").includes("unforeseen"), false);
});

theDaemonGoes();
