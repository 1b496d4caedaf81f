// Terminate over HTTP, the contract's route: curl, Node's client and bare bytes against the real daemon.

import { equal, is, match } from "uvu/assert";
import { kinds, limits } from "../client/wire.js";
import { freeze, noFreezer } from "./cage.js";
import { spawnReady, testProgram, untilReady } from "./commands.js";
import { call, theDaemonGoes, visitDaemon } from "./daemon.js";
import {
  ask,
  assertFailed,
  curl,
  failure,
  json,
  nobody,
  noCurl,
  openWire,
  post,
  route,
} from "./http.js";
import { isAlive, scenario, skipped } from "./scenario.js";

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
    const { pid } = await spawnReady(client, testProgram("ignores-term.sh"));
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

theDaemonGoes();
