// JSON-RPC 2.0 to the letter, over a real socket: the specification's own examples with its own methods.

import net from "node:net";
import { join } from "node:path";
import { equal, is, match } from "uvu/assert";
import { limits, Refusal } from "../client/wire.js";
import { serve } from "../daemon/doors/accept.js";
import { createHttpDoor } from "../daemon/doors/http.js";
import { createLineDoor } from "../daemon/doors/line.js";
import { createPatience } from "../daemon/doors/patience.js";
import { type Call, createAnswer } from "../daemon/doors/rpc.js";
import { openRaw } from "./daemon.js";
import { type Scene, scenario } from "./scenario.js";

const subtract: Call<null> = (params) => {
  const [a, b] = Array.isArray(params)
    ? params
    : [(params as { minuend: number }).minuend, (params as { subtrahend: number }).subtrahend];
  return a - b;
};

const calls: Record<string, Call<null>> = {
  subtract,
  update: () => undefined,
  foobar_exists: () => undefined,
  sum: (params) => (params as number[]).reduce((total, value) => total + value, 0),
  notify_hello: () => undefined,
  get_data: () => ["hello", 5],
  refuse: () => {
    throw new Refusal("name_taken", "taken", { holder: 1 });
  },
  crash: () => {
    throw new Error("secret path /etc/shadow");
  },
  unprintable: () => 1n,
  repeat: (params) => "€".repeat((params as number[])[0] ?? 0),
  same: () => same,
};
const same = { one: "result" };

async function serveExamples(scene: Scene, unforeseen: unknown[] = []) {
  const path = join(scene.folder, "s");
  const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true });
  const answer = createAnswer(calls, (error) => {
    unforeseen.push(error);
    return "ref";
  });
  const doors = { line: createLineDoor(answer), http: createHttpDoor(answer, () => false) };
  serve(server, doors, () => ({ uid: 0, patience: createPatience()(0), callerOf: () => null }));
  scene.after(() => void server.close());
  await new Promise<void>((ready) => server.listen(path, ready));
  return openRaw(scene, path);
}

const invalid = (id: unknown = null) => ({
  jsonrpc: "2.0",
  error: { code: -32600, message: "Invalid Request" },
  id,
});
const parseError = { jsonrpc: "2.0", error: { code: -32700, message: "Parse error" }, id: null };
const notFound = (id: unknown) => ({
  jsonrpc: "2.0",
  error: { code: -32601, message: "Method not found" },
  id,
});
const result = (value: unknown, id: unknown) => ({ jsonrpc: "2.0", result: value, id });

/** What is sent, and what comes back; undefined: nothing. Section 7 first, as printed there. */
const examples: [string, string, unknown][] = [
  [
    "positional parameters",
    '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
    result(19, 1),
  ],
  [
    "positional parameters, swapped",
    '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
    result(-19, 2),
  ],
  [
    "named parameters",
    '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
    result(19, 3),
  ],
  [
    "named parameters, swapped",
    '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
    result(19, 4),
  ],
  ["a notification", '{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', undefined],
  ["a notification of an unknown method", '{"jsonrpc": "2.0", "method": "foobar"}', undefined],
  ["a non-existent method", '{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', notFound("1")],
  ["invalid JSON", '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', parseError],
  ["an invalid request object", '{"jsonrpc": "2.0", "method": 1, "params": "bar"}', invalid()],
  [
    "a batch with invalid JSON",
    '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},{"jsonrpc": "2.0", "method"',
    parseError,
  ],
  ["an empty batch", "[]", invalid()],
  ["an invalid batch of one", "[1]", [invalid()]],
  ["an invalid batch", "[1,2,3]", [invalid(), invalid(), invalid()]],
  [
    "a mixed batch",
    '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},{"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},{"foo": "boo"},{"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},{"jsonrpc": "2.0", "method": "get_data", "id": "9"}]',
    [result(7, "1"), result(19, "2"), invalid(), notFound("5"), result(["hello", 5], "9")],
  ],
  [
    "a batch of notifications",
    '[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]',
    undefined,
  ],
  // Beyond the examples.
  [
    "a batch of one request",
    '[{"jsonrpc":"2.0","method":"sum","params":[1],"id":1}]',
    [result(1, 1)],
  ],
  [
    "a batch of a request and a notification",
    '[{"jsonrpc":"2.0","method":"sum","params":[1],"id":1},{"jsonrpc":"2.0","method":"update"}]',
    [result(1, 1)],
  ],
  ["a batch in a batch", "[[]]", [invalid()]],
  ["a batch of null", "[null]", [invalid()]],
  [
    "a batch of null and a request",
    '[null,{"jsonrpc":"2.0","method":"sum","params":[1],"id":1}]',
    [invalid(), result(1, 1)],
  ],
  ["null", "null", invalid()],
  ["zero", "0", invalid()],
  ["false", "false", invalid()],
  ["a string", '"x"', invalid()],
  ["an empty line", "", parseError],
  ["a numeric method", '{"jsonrpc":"2.0","method":1,"id":7}', invalid(7)],
  ["params that are a string", '{"jsonrpc":"2.0","method":"sum","params":"x","id":7}', invalid(7)],
  ["params that are null", '{"jsonrpc":"2.0","method":"sum","params":null,"id":7}', invalid(7)],
  ["no version", '{"method":"sum","params":[1],"id":7}', invalid(7)],
  ["another version", '{"jsonrpc":"1.0","method":"sum","params":[1],"id":7}', invalid(7)],
  ["an id that is an object", '{"jsonrpc":"2.0","method":"sum","params":[1],"id":{}}', invalid()],
  ["an id that is a boolean", '{"jsonrpc":"2.0","method":"sum","params":[1],"id":true}', invalid()],
  [
    "an id that is null",
    '{"jsonrpc":"2.0","method":"sum","params":[1],"id":null}',
    result(1, null),
  ],
  [
    "an id that is a fraction",
    '{"jsonrpc":"2.0","method":"sum","params":[1],"id":1.5}',
    result(1, 1.5),
  ],
  ["an id that is empty", '{"jsonrpc":"2.0","method":"sum","params":[1],"id":""}', result(1, "")],
  ["an id that is zero", '{"jsonrpc":"2.0","method":"sum","params":[1],"id":0}', result(1, 0)],
  ["a result that is undefined", '{"jsonrpc":"2.0","method":"update","id":1}', result(null, 1)],
  ["a method of Object.prototype", '{"jsonrpc":"2.0","method":"toString","id":1}', notFound(1)],
  [
    "a carriage return before the newline",
    '{"jsonrpc":"2.0","method":"sum","params":[1],"id":1}\r',
    result(1, 1),
  ],
];

for (const [name, sent, expected] of examples) {
  scenario(`answered by the specification: ${name}`, async (scene) => {
    const raw = await serveExamples(scene);
    raw.write(`${sent}\n`);
    if (expected !== undefined) equal(await raw.next(), expected);
    // What has no answer is proven by the next line's answer coming first.
    equal(
      await raw.ask({ jsonrpc: "2.0", method: "sum", params: [2], id: "end" }),
      result(2, "end"),
    );
  });
}

scenario("a result that several are told comes to each under their id", async (scene) => {
  const raw = await serveExamples(scene);
  for (const [method, id, value] of [
    ["same", 1, same],
    ["same", 'two "2"', same],
    ["get_data", 3, ["hello", 5]],
    ["update", 4, null],
    ["same", null, same],
  ] as const) {
    equal(await raw.ask({ jsonrpc: "2.0", method, id }), result(value, id));
  }
});

scenario("a batch may hold its limit of calls and not one more", async (scene) => {
  const raw = await serveExamples(scene);
  const batch = (size: number) =>
    Array.from({ length: size }, (_, id) => ({ jsonrpc: "2.0", method: "sum", params: [1], id }));
  const full: unknown = await raw.ask(batch(limits.batchCalls));
  is((full as unknown[]).length, limits.batchCalls);
  const refused = await raw.ask(batch(limits.batchCalls + 1));
  const { code, data } = refused.error ?? {};
  equal([refused.id, code, data?.["limit"]], [null, -32600, "batchCalls"]);
});

scenario("an answer may be as long as a line and not longer", async (scene) => {
  const raw = await serveExamples(scene);
  const ask = (count: number) =>
    raw.ask({ jsonrpc: "2.0", method: "repeat", params: [count], id: 1 });
  const frame = Buffer.byteLength(JSON.stringify(await ask(0)));
  const most = Math.floor((limits.lineBytes - frame) / 3);
  is(String((await ask(most)).result).length, most);
  const { code, data } = (await ask(most + 1)).error ?? {};
  equal([code, data?.["limit"]], [-32006, "lineBytes"]);
});

scenario("a refusal carries its kind and facts, a bug only a reference", async (scene) => {
  const bugs: unknown[] = [];
  const raw = await serveExamples(scene, bugs);
  equal((await raw.ask({ jsonrpc: "2.0", method: "refuse", id: 1 })).error, {
    code: -32007,
    message: "taken",
    data: { kind: "name_taken", holder: 1 },
  });
  for (const method of ["crash", "unprintable"]) {
    const { error } = await raw.ask({ jsonrpc: "2.0", method, id: 2 });
    is(error?.code, -32603);
    match(error?.message ?? "", /^Server error: /);
    equal(error?.data, { kind: "internal_error", reference: "ref" });
  }
  is(bugs.length, 2);
});
