// The client library against the daemon, against servers that are none, and in programs that carry it.

import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { equal, is, match, ok } from "uvu/assert";
import { connect, Disconnected, type Event } from "../client/client.js";
import { limits } from "../client/wire.js";
import { createLatch, outputOf, refusalOf, testProgram } from "./commands.js";
import { call, startDaemon, theDaemonGoes, visitDaemon } from "./daemon.js";
import { type Scene, scenario, until } from "./scenario.js";

async function disconnection(promise: Promise<unknown>): Promise<Disconnected> {
  const outcome = await promise.catch((error: unknown) => error);
  ok(outcome instanceof Disconnected, String(outcome));
  return outcome;
}

/** A program that carries the client library: an ES module with `connect` at hand. */
function runProgram(scene: Scene, lines: string[], env: Record<string, string>) {
  const library = pathToFileURL(join(import.meta.dirname, "../client/client.js")).href;
  const file = join(scene.folder, `program${Math.random()}.mjs`);
  writeFileSync(file, [`import { connect } from ${JSON.stringify(library)};`, ...lines].join("\n"));
  const child = spawn(process.execPath, [file], {
    cwd: scene.folder,
    env: { PATH: process.env["PATH"] ?? "", ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  scene.after(() => void child.kill("SIGKILL"));
  const program = { child, output: "" };
  child.stdout.on("data", (chunk) => {
    program.output += String(chunk);
  });
  const ended = new Promise<number | null>((done) => child.once("close", done));
  return Object.assign(program, { ended });
}

// --- calls ----------------------------------------------------------------------------------

scenario("a spawned command has its caller's folder and environment", async (scene) => {
  const { socket, connect: open } = await startDaemon(scene);
  const env = { PROCSUP_SOCKET: socket, OWN: "a=b", EMPTY: "" };
  const program = runProgram(
    scene,
    [
      "const client = await connect();",
      'for (const command of [["pwd"], ["env"]]) await client.spawn({ command });',
    ],
    { ...env, prototype: "a name that the contract refuses" },
  );
  is(await program.ended, 0);
  const client = await open();
  const { processes } = await client.list({ all: true });
  for (const { id } of processes) await client.wait({ id });
  const [pwd, all] = await Promise.all(
    processes.map(async ({ id }) => (await client.logs({ id })).text),
  );
  is(pwd, `${scene.folder}\n`);
  const mark = `PROCSUP_ID=${processes[1]?.id}`;
  const own = Object.entries({ ...env, PATH: process.env["PATH"] });
  equal(all?.trim().split("\n").sort(), [mark, ...own.map((entry) => entry.join("="))].sort());
});

scenario("what the caller says of folder and environment is exactly what counts", async (scene) => {
  const { socket, connect: open } = await visitDaemon(scene);
  const client = await open();
  is(await outputOf(client, { command: ["pwd"], cwd: "/usr" }), "/usr\n");
  const env = (await outputOf(client, { command: ["env"], env: { ONLY: "this" } })).trim();
  const [first, second, third] = env.split("\n").sort();
  equal([first, third], ["ONLY=this", `PROCSUP_SOCKET=${socket}`]);
  match(second ?? "", /^PROCSUP_ID=p[0-9a-f]{12}$/);
  is(env.split("\n").length, 3);
});

scenario(
  "what a caller leaves open is its own, and what it cannot have is refused",
  async (scene) => {
    const { socket, connect: open } = await startDaemon(scene);
    const program = runProgram(
      scene,
      [
        'import { mkdirSync, rmdirSync } from "node:fs";',
        "const client = await connect();",
        'await client.spawn({ command: ["pwd"], cwd: undefined, env: undefined });',
        'mkdirSync("gone"); process.chdir("gone"); rmdirSync("../gone");',
        'await client.spawn({ command: ["pwd"], cwd: "/" });',
        'await client.spawn({ command: ["pwd"] }).catch(({ message }) => console.log(message));',
      ],
      { PROCSUP_SOCKET: socket },
    );
    is(await program.ended, 0);
    match(program.output, /^spawn: cwd: the folder .* was removed: name another\n$/);
    const client = await open();
    const { processes } = await client.list({ all: true });
    equal(
      processes.map(({ cwd }) => cwd),
      [scene.folder, "/"],
    );
  },
);

scenario("a refusal comes with its kind and its facts", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const unknown = await refusalOf(client.status({ name: "nobody" }));
  equal([unknown.kind, unknown.facts], ["process_not_found", { name: "nobody" }]);
  is(unknown.message, "Process not found: name nobody");
  const holder = await client.spawn({ command: ["sleep", "1000"], name: "web" });
  const taken = await refusalOf(client.spawn({ command: ["true"], name: "web" }));
  equal([taken.kind, taken.facts], ["name_taken", { holder }]);
  const failed = await refusalOf(client.spawn({ command: ["no-such-command"] }));
  equal([failed.kind, failed.facts["errno"]], ["spawn_failed", "ENOENT"]);
  const invalid = await refusalOf(client.status({ pid: 0 }));
  equal([invalid.kind, invalid.facts], ["invalid_params", { field: "pid" }]);
  const method = await refusalOf(client.call("nonsense" as "info", {}));
  is(method.kind, "method_not_found");
});

scenario("a call that holds too much is refused, and no other is", async (scene) => {
  const { socket } = await visitDaemon(scene);
  const client = await connect({ socket });
  scene.after(() => client.close());
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  const waits = client.wait({ id });
  const command = ["true", ...Array<string>(limits.values).fill("a")];
  const refusal = await refusalOf(client.spawn({ command }));
  equal([refusal.kind, refusal.facts], ["invalid_request", { limit: "values" }]);
  await client.terminate({ id });
  is((await waits).process.status, "terminated");
});

scenario("a listener that throws holds up no answer", async (scene) => {
  const { socket } = await visitDaemon(scene);
  const lines = [
    'process.on("uncaughtException", ({ message }) => console.log(message));',
    "await client.subscribe({});",
    'client.onEvent(() => { throw new Error("thrown"); });',
    "for (let n = 0; n < 5; n++) {",
    '  const { id } = await client.spawn({ command: ["sleep", "1000"] });',
    "  await client.terminate({ id });",
    "}",
    'console.log("done"); client.close();',
  ];
  const start = "const client = await connect();";
  const program = runProgram(scene, [start, ...lines], { PROCSUP_SOCKET: socket });
  is(await program.ended, 0);
  match(program.output, /thrown\n(.*\n)*done\n$/);
});

scenario("500 calls under way at once each get their own answer", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  const lines = await client.spawn({ command: ["seq", "500"] });
  await client.wait({ id: lines.id });
  const order: number[] = [];
  const ask = async (n: number) => {
    if (n % 3 === 0) {
      const { facts } = await refusalOf(client.status({ name: `n${n}` }));
      equal(facts, { name: `n${n}` });
    } else if (n % 3 === 1) {
      is((await client.wait({ id, timeoutMs: (n * 7) % 60 })).process.id, id);
    } else {
      const { text } = await client.logs({ id: lines.id, tailLines: n });
      equal([text.split("\n")[0], text.split("\n").length], [String(501 - n), n + 1]);
    }
    order.push(n);
  };
  const numbers = Array.from({ length: 500 }, (_, at) => at);
  await Promise.all(numbers.map(ask));
  is(order.length, 500);
  ok(
    order.some((n, at) => n < (order[at - 1] ?? 0)),
    "answers came out of order",
  );
});

scenario("a call longer than a line is refused here, one that just fits arrives", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const pending = client.wait({ id: (await client.spawn({ command: ["sleep", "1000"] })).id });
  const ofLength = (length: number) => "x".repeat(length);
  const most = limits.lineBytes - `${JSON.stringify(call("status", { name: "" }))}\n`.length;
  const long = await refusalOf(client.status({ name: ofLength(most + 1) }));
  equal([long.kind, long.facts], ["invalid_request", { limit: "lineBytes" }]);
  for (const one of [client, await (await visitDaemon(scene)).connect()]) {
    is((await refusalOf(one.status({ name: ofLength(most) }))).kind, "invalid_params");
  }
  const euros = "€".repeat(Math.ceil(limits.lineBytes / 3));
  is((await refusalOf(client.status({ name: euros }))).kind, "invalid_request");
  is((await client.list({})).processes.length, 1);
  client.close();
  await disconnection(pending);
});

// --- the end of a connection ----------------------------------------------------------------

scenario("when the daemon is killed, pending calls fail and later ones at once", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const { id, pid } = await client.spawn({ command: ["sleep", "1000"] });
  scene.after(() => void process.kill(pid ?? 0, "SIGKILL"));
  const reasons = Promise.all(
    [client.wait({ id }), client.wait({ id, timeoutMs: 60_000 })].map(disconnection),
  );
  is((await client.list({})).processes.length, 1);
  daemon.child.kill("SIGKILL");
  await daemon.exited;
  for (const { message } of await reasons) match(message, /the daemon closed the connection/);
  const late = disconnection(client.info({}));
  const first = await Promise.race([late, new Promise((next) => setImmediate(next, "slow"))]);
  match(String(first), /Disconnected: the daemon closed the connection/);
});

scenario("whoever asked is told once that the connection has ended, and why", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const heard: Error[] = [];
  client.onClose((reason) => heard.push(reason));
  client.onClose(() => ok(false, "it was taken back"))();
  daemon.child.kill("SIGKILL");
  await until("it is told", () => heard.length > 0);
  const late = await new Promise<Error>((tell) => client.onClose(tell));
  client.close();
  for (const reason of [...heard, late]) {
    ok(reason instanceof Disconnected);
    match(reason.message, /the daemon closed the connection/);
  }
  is(heard.length, 1);
});

scenario("nothing is heard of a connection that its own program has closed", async (scene) => {
  const path = join(scene.folder, "s");
  const event = '{"jsonrpc":"2.0","method":"event","params":{"event":"status"}}\n';
  const server = net.createServer((socket) => {
    scene.after(() => void socket.destroy());
    socket.once("data", () => socket.write(event.repeat(2)));
  });
  scene.after(() => void server.close());
  await new Promise<void>((listening) => server.listen(path, listening));
  const client = await connect({ socket: path });
  let events = 0;
  client.onEvent(() => {
    events += 1;
    client.close();
  });
  const reason = await new Promise<Error>((tell) => client.onClose(tell));
  match(reason.message, /closed by this program/);
  is(events, 1);
});

scenario("a daemon that goes just as it was reached is told as a disconnection", async (scene) => {
  const path = join(scene.folder, "s");
  const server = net.createServer((socket) => {
    socket.once("close", () => writeFileSync(join(scene.folder, "closed"), ""));
    socket.destroy();
  });
  scene.after(() => void server.close());
  await new Promise<void>((listening) => server.listen(path, listening));
  // It is connected at once, and looks at that only when the other end is gone already.
  const lines = [
    'import { existsSync } from "node:fs";',
    "const connecting = connect();",
    'while (!existsSync("closed"));',
    "await (await connecting).info({}).catch(({ kind }) => console.log(kind));",
  ];
  const program = runProgram(scene, lines, { PROCSUP_SOCKET: path });
  equal([await program.ended, program.output], [0, "disconnected\n"]);
});

scenario("closing a connection fails what is pending on it, and may be repeated", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  const pending = disconnection(client.wait({ id }));
  client.close();
  match((await pending).message, /closed by this program/);
  client.close();
  is((await disconnection(client.info({}))).kind, "disconnected");
});

scenario("a connection keeps no program alive once its calls are answered", async (scene) => {
  const { socket } = await visitDaemon(scene);
  const program = runProgram(
    scene,
    [
      "const client = await connect();",
      "client.onEvent(() => {});",
      "await Promise.all([client.subscribe({}), client.info({}), client.list({})]);",
      'console.log("answered");',
    ],
    { PROCSUP_SOCKET: socket },
  );
  equal([await program.ended, program.output], [0, "answered\n"]);
});

scenario("a pending call keeps its program alive until it is answered", async (scene) => {
  const { socket, connect: open } = await visitDaemon(scene);
  const client = await open();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  const env = { PROCSUP_SOCKET: socket, ID: id };
  const waiting = runProgram(
    scene,
    [
      "const client = await connect();",
      'client.wait({ id: process.env.ID }).then(() => console.log("ended"));',
      'await client.info({}); console.log("waiting");',
    ],
    env,
  );
  await until("it waits", () => waiting.output === "waiting\n");
  // Another program comes and goes: time enough to leave for one that nothing holds.
  is(await runProgram(scene, ["await (await connect()).info({});"], env).ended, 0);
  is(waiting.child.exitCode, null);
  await client.terminate({ id });
  equal([await waiting.ended, waiting.output], [0, "waiting\nended\n"]);
});

const strangers: Record<string, (asked: Buffer, socket: net.Socket) => void> = {
  "speaks HTTP": (_, socket) => void socket.write("HTTP/1.1 400 Bad Request\r\n\r\n"),
  echoes: (asked, socket) => void socket.write(asked),
  "answers a number": (_, socket) => void socket.write("5\n"),
  "answers null": (_, socket) => void socket.write("null\n"),
  "answers an array": (_, socket) => void socket.write("[]\n"),
  "answers some other object": (_, socket) => void socket.write('{"hello":"world"}\n'),
  "sends an event of nothing": (_, socket) =>
    void socket.write('{"jsonrpc":"2.0","method":"event","params":null}\n'),
  "answers bytes": (_, socket) => void socket.write(Buffer.from([0xff, 0xfe, 0x0a])),
  "refuses without a reason": (_, socket) => void socket.write('{"id":null,"error":null}\n'),
  "never ends its line": (_, socket) => {
    const more = () => {
      while (!socket.destroyed && socket.write(Buffer.alloc(1 << 20, "x")));
    };
    socket.on("drain", more);
    more();
  },
  "hangs up": (_, socket) => void socket.end(),
  resets: (_, socket) => void socket.destroy(),
};

for (const [what, answer] of Object.entries(strangers)) {
  scenario(`a server that ${what} fails the calls and harms nobody`, async (scene) => {
    const path = join(scene.folder, "s");
    const server = net.createServer((socket) => {
      socket.on("data", (asked) => answer(asked, socket));
      socket.on("error", () => socket.destroy());
      scene.after(() => void socket.destroy());
    });
    scene.after(() => void server.close());
    await new Promise<void>((listening) => server.listen(path, listening));
    const client = await connect({ socket: path });
    const heard: Event[] = [];
    client.onEvent((event) => heard.push(event));
    const reasons = [client.info({}), client.list({})].map(disconnection);
    for (const { message } of await Promise.all(reasons)) ok(message.length > 0);
    await disconnection(client.info({}));
    equal(heard, []);
  });
}

scenario("notifications that this version does not know are passed over", async (scene) => {
  const path = join(scene.folder, "s");
  const server = net.createServer((socket) => {
    scene.after(() => void socket.destroy());
    socket.on("data", (asked) => {
      const { id } = JSON.parse(String(asked)) as { id: number };
      socket.write('{"jsonrpc":"2.0","method":"greeting","params":{"event":"status"}}\n');
      socket.write(`{"jsonrpc":"2.0","id":${id + 1},"result":"nobody asked"}\n`);
      socket.write(`{"jsonrpc":"2.0","id":${id},"result":{"processes":[],"next":null}}\n`);
    });
  });
  scene.after(() => void server.close());
  await new Promise<void>((listening) => server.listen(path, listening));
  const client = await connect({ socket: path });
  scene.after(() => client.close());
  const heard: Event[] = [];
  client.onEvent((event) => heard.push(event));
  equal([(await client.list({})).processes, heard], [[], []]);
});

// --- events ---------------------------------------------------------------------------------

scenario("a subscription is told of output and status, until it is ended", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const latch = createLatch(scene);
  const events: Event[] = [];
  const off = client.onEvent((event) => events.push(event));
  const deaf: Event[] = [];
  client.onEvent((event) => deaf.push(event))();

  const command = testProgram("writes-when-told.sh", latch.path, "100");
  const { id } = await client.spawn({ command });
  const told = () => client.logs({ id, tailLines: 1 });
  await until("the first half is written", async () => (await told()).text.startsWith("100 "));
  const { next: from } = await told();
  const { subscription } = await client.subscribe({ id, output: true });
  latch.open();
  latch.open();
  const { process } = await client.wait({ id });
  equal([process.status, process.exitCode], ["exited", 3]);
  const heard = (stream: string) =>
    events.flatMap((one) => (one.event === "output" && one.stream === stream ? [one] : []));
  const text = (stream: string) =>
    heard(stream)
      .map((one) => one.text)
      .join("");
  await until("all is heard", () => text("stdout").includes("200 ") && text("stderr") !== "");
  equal([text("stdout"), text("stderr")], [(await client.logs({ id, from })).text, "complaint\n"]);
  is(heard("stdout")[0]?.from, from);
  equal(
    events.filter((one) => one.event === "status"),
    [{ event: "status", subscription, process }],
  );

  equal(await client.unsubscribe({ subscription }), { unsubscribed: true });
  equal(await client.unsubscribe({ subscription }), { unsubscribed: false });
  off();
  equal(deaf, []);
});

theDaemonGoes();
