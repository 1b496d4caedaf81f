// The HTTP door as its callers meet it: curl, Node's client and bare bytes against the real daemon. The
// limits of time and number are in doors.test.ts.

import http from "node:http";
import { equal, is, match } from "uvu/assert";
import { kinds, limits } from "../client/wire.js";
import { freeze, noFreezer } from "./cage.js";
import { spawnReady, testProgram, untilReady } from "./commands.js";
import { call, startDaemon, theDaemonGoes, visitDaemon } from "./daemon.js";
import {
  ask,
  assertFailed,
  curl,
  failure,
  json,
  noCurl,
  openWire,
  post,
  type Response,
  requestText,
  route,
} from "./http.js";
import { isAlive, scenario, skipped, until } from "./scenario.js";

const nobody = route(2 ** 31 - 1);

// --- the contract's route -------------------------------------------------------------------

if (noCurl !== null) skipped("curl gets the answers of the contract's table", noCurl);
else {
  scenario("curl gets the answers of the contract's table, word for word", async (scene) => {
    const daemon = await visitDaemon(scene);
    const { id, pid } = await (await daemon.connect()).spawn({ command: ["sleep", "1000"] });
    const done = await curl(daemon.socket, route(pid), "-X", "POST");
    const { timestamp, durationMs, ...said } = JSON.parse(done.text) as Record<string, unknown>;
    is(done.status, 200);
    equal(said, {
      success: true,
      pid,
      status: "terminated",
      message: "Process terminated successfully",
      id,
      exitCode: null,
      signal: "SIGTERM",
      forced: false,
      ended: 1,
    });
    match(String(timestamp), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    is(typeof durationMs, "number");
    is(isAlive(pid ?? 0), false);

    const again = await curl(daemon.socket, route(pid), "-X", "POST");
    assertFailed(again, 400, "already_terminated");
    is(failure(again).error, `Process already terminated: PID ${pid}`);
    const unknown = await curl(daemon.socket, route(12345), "-X", "POST");
    is(unknown.status, 404);
    is(unknown.text, '{"error":"Process not found: PID 12345"}\n');
  });

  scenario("curl forces by a body, and asks before it sends a long one", async (scene) => {
    const daemon = await visitDaemon(scene);
    const client = await daemon.connect();
    const { id, pid } = await client.spawn({ command: testProgram("ignores-term.sh") });
    await untilReady(client, id);
    const type = ["-H", "content-type: application/json"];
    const done = await curl(daemon.socket, route(pid), ...type, "-d", '{"force": true}');
    const { forced, signal } = JSON.parse(done.text) as Record<string, unknown>;
    equal([done.status, forced, signal], [200, true, "SIGKILL"]);
    const expect = [...type, "-H", "expect: 100-continue", "-d", '{"force": false}'];
    assertFailed(await curl(daemon.socket, route(pid), ...expect), 400, "already_terminated");
  });
}

const survive = "members survive: 500 over HTTP, the same survivors as over JSON-RPC";
if (noFreezer !== null) {
  if (process.env["CI"] === undefined) skipped(survive, noFreezer);
} else {
  scenario(survive, async (scene) => {
    const daemon = await visitDaemon(scene);
    const client = await daemon.connect();
    const { pid } = await client.spawn({ command: ["sleep", "1000"] });
    await freeze(scene, pid ?? 0);
    const { ask: askLine } = await daemon.raw();
    const [line, response] = await Promise.all([
      askLine(call("terminate", { pid, force: true })),
      post(daemon.socket, route(pid), { force: true }),
    ]);
    assertFailed(response, 500, "termination_failed");
    equal(failure(response), { error: line.error?.message, kind: line.error?.data?.["kind"] });
    match(failure(response).error, /^Failed to terminate process: 1 still alive: PID /);
  });
}

scenario("one scenario over both doors is answered the same, field by field", async (scene) => {
  const daemon = await visitDaemon(scene);
  const { ask: askLine } = await daemon.raw();
  const spawning = { command: testProgram("ignores-term.sh"), graceMs: 500 };
  const { result } = await askLine(call("spawn", spawning));
  const { pid, id } = result as { pid: number; id: string };
  const client = await daemon.connect();
  await untilReady(client, id);
  // Two callers of one ladder get one answer.
  const [line, response] = await Promise.all([
    askLine(call("terminate", { pid })),
    post(daemon.socket, route(pid), {}),
  ]);
  is(response.status, 200);
  is(response.text, `${JSON.stringify(line.result)}\n`);
  for (const params of [{ pid }, { pid: 12345 }, { pid: 2 ** 31 }, { pid, force: "yes" }]) {
    const { error } = await askLine(call("terminate", params));
    const { pid: number, ...body } = params;
    const refused = await post(daemon.socket, route(number), body);
    equal(failure(refused), { error: error?.message, kind: error?.data?.["kind"] });
    is(refused.status, kinds[failure(refused).kind as keyof typeof kinds].http);
  }
  for (const text of [call("list", { all: true }), [call("status", { pid }), 1], call("nothing")]) {
    const over = await post(daemon.socket, "/rpc", text);
    equal([over.status, JSON.parse(over.text)], [200, await askLine(text)]);
  }
});

scenario("every way to say `do not force`, and nothing but JSON, is a body", async (scene) => {
  const { socket } = await visitDaemon(scene);
  const plain = { "content-type": "text/plain" };
  const good: [string, Record<string, string>][] = [
    ["", {}],
    ["", plain],
    ["{}", json],
    [' {"force" : false}\r\n', { "content-type": "Application/JSON; charset=utf-8" }],
    [" \n", json],
  ];
  for (const [body, headers] of good) {
    assertFailed(await ask(socket, nobody, { headers, body }), 404, "process_not_found", body);
  }
  const form = { "content-type": "application/x-www-form-urlencoded" };
  const bad: [number, string, string | Buffer, Record<string, string>][] = [
    [400, "parse_error", "{", json],
    [400, "parse_error", '{"force": tru}', json],
    [400, "parse_error", Buffer.from([0x22, 0xff, 0x22]), json],
    [400, "invalid_request", `{"force":${"[".repeat(500)}`, json],
    [400, "invalid_params", "null", json],
    [400, "invalid_params", "[]", json],
    [400, "invalid_params", '"force"', json],
    [400, "invalid_params", '{"force": 1}', json],
    [400, "invalid_params", '{"force": "true"}', json],
    [400, "invalid_params", '{"force": null}', json],
    [400, "invalid_params", '{"force": true, "graceMs": 1}', json],
    [400, "invalid_params", '{"pid": 1}', json],
    [400, "invalid_params", '{"__proto__": {}}', json],
    [415, "invalid_request", "{}", {}],
    [415, "invalid_request", "{}", plain],
    [415, "invalid_request", "force=true", form],
    [415, "invalid_request", "{}", { "content-type": "application/jsonp" }],
    [415, "invalid_request", "{}", { ...json, "content-encoding": "gzip" }],
    [413, "invalid_request", " ".repeat(limits.lineBytes + 1), json],
    [
      413,
      "invalid_request",
      " ".repeat(limits.lineBytes + 1),
      { ...json, "transfer-encoding": "chunked" },
    ],
  ];
  for (const [status, kind, body, headers] of bad) {
    const what = `${headers["content-type"]} ${body.toString().slice(0, 40)}`;
    assertFailed(await ask(socket, nobody, { headers, body }), status, kind, what);
  }
  assertFailed(
    await ask(socket, nobody, { headers: json, body: " ".repeat(limits.lineBytes) }),
    404,
    "process_not_found",
  );
  match(failure(await post(socket, nobody, { force: 1 })).error, / force: /);
  match(failure(await post(socket, nobody, { graceMs: 1 })).error, / graceMs/);
});

scenario("bad numbers, paths, methods and pages of a browser end nothing", async (scene) => {
  const daemon = await visitDaemon(scene);
  const { pid } = await (await daemon.connect()).spawn({ command: ["sleep", "1000"] });
  const { socket } = daemon;
  for (const part of [
    "0",
    "-1",
    "+1",
    "1.5",
    "1e3",
    "007",
    "abc",
    "%31",
    "9".repeat(400),
    `${pid}%00`,
  ]) {
    const response = await ask(socket, route(part));
    assertFailed(response, 400, "invalid_params", part);
    match(failure(response).error, /pid/);
  }
  for (const path of ["/", "/rpc/", route(""), `${route(pid)}/`, `${route(pid)}?force=1`, "/api"]) {
    assertFailed(await ask(socket, path), 404, "method_not_found", path);
  }
  assertFailed(await ask(socket, `http://procsup${route("0")}`), 400, "invalid_params");
  for (const method of ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]) {
    const response = await ask(socket, route(pid), { method });
    equal([response.status, response.headers["allow"]], [405, "POST"], method);
    if (method !== "HEAD") assertFailed(response, 405, "invalid_request", method);
  }
  for (const path of ["/healthz", "/openrpc.json"]) {
    const response = await ask(socket, path, { body: "" });
    equal([response.status, response.headers["allow"]], [405, "GET, HEAD"], path);
  }
  for (const origin of ["http://localhost", "null", ""]) {
    for (const path of [route(pid), "/rpc", "/nothing"]) {
      assertFailed(await ask(socket, path, { headers: { origin } }), 403, "permission_denied");
    }
  }
  const wire = await openWire(scene, socket);
  wire.socket.write("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n");
  is((await wire.next()).status, 405);
  is(isAlive(pid ?? 0), true);
});

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
