// How long faults are put up with, as its programs meet it: one in this process, another beside it.

import { equal, is, ok } from "uvu/assert";
import { limits } from "../client/wire.js";
import { createPatience } from "../daemon/doors/patience.js";
import { runCli } from "./cli.js";
import { call, type Daemon, startDaemon } from "./daemon.js";
import { openWire, requestText } from "./http.js";
import { type Scene, scenario, until } from "./scenario.js";

const { faultsAtOnce, faultsPerSecond } = limits;
/** What takes most of a second more than a program's patience. */
const FAULTS = faultsAtOnce + 40;
/** Timers do not come early: whoever has to wait has waited. */
const LEAST_MS = 750;

type Flood = (scene: Scene, daemon: Daemon) => Promise<void>;

/** On one connection, a proper call behind them. */
function lines(...faults: string[]): Flood {
  return async (_, daemon) => {
    const raw = await daemon.raw();
    raw.write(faults.map((fault) => `${fault}\n`.repeat(FAULTS / faults.length)).join(""));
    raw.write(`${JSON.stringify(call("info"))}\n`);
    for (let heard = 0; heard < FAULTS; heard++) ok((await raw.next()).error);
    ok((await raw.next()).result);
    raw.socket.destroy();
  };
}

/** Each on a connection of its own, one after the other. */
function connections(fault: string): Flood {
  return async (scene, daemon) => {
    for (let sent = 0; sent < FAULTS; sent++) {
      const wire = await openWire(scene, daemon.socket);
      wire.socket.end(fault);
      const answers = await wire.rest();
      is(answers.length, 1);
      ok(Number(answers[0]?.status) >= 400, `${sent}`);
      wire.socket.destroy();
    }
  };
}

/** Twenty a line. */
const batches: Flood = async (_, daemon) => {
  const raw = await daemon.raw();
  const batch = Array.from({ length: 20 }, (__, n) => call("nothing", {}, n));
  raw.write(`${JSON.stringify(batch)}\n`.repeat(FAULTS / batch.length));
  for (let heard = 0; heard < FAULTS; heard += batch.length) is(await lengthOf(raw.next()), 20);
  raw.socket.destroy();
};

async function lengthOf(reply: Promise<unknown>): Promise<number> {
  return ((await reply) as unknown[]).length;
}

/** Each on a connection of its own, which ends with it. */
const halves: Flood = async (_, daemon) => {
  for (let sent = 0; sent < FAULTS; sent++) {
    const raw = await daemon.raw();
    raw.socket.end("{");
    is((await raw.next()).error?.code, -32700);
    await raw.ended;
  }
};

/** All on one connection, ten at a time. */
const requests: Flood = async (scene, daemon) => {
  const wire = await openWire(scene, daemon.socket);
  for (let sent = 0; sent < FAULTS; sent += 10) {
    wire.socket.write(requestText("POST /rpc", '{"jsonrpc":"2.0","id":1,"method":"x"}').repeat(10));
    for (let heard = 0; heard < 10; heard++) is((await wire.next()).status, 200);
  }
  wire.socket.destroy();
};

const floods: Record<string, Flood> = {
  lines: lines(
    '{"jsonrpc":"2.0","id":1,"method":"info","params":{"x":1}}',
    '{"jsonrpc":"2.0","id":1,"method":"nothing"}',
    '{"id":1}',
    "{",
  ),
  batches,
  "halves of lines": halves,
  requests,
  "paths that there are not": connections(
    "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
  ),
  "what is no HTTP": connections("GET / HTTP/9\r\n\r\n"),
};

for (const [what, flood] of Object.entries(floods)) {
  scenario(`who sends ${what} that make no sense waits`, async (scene) => {
    const daemon = await startDaemon(scene);
    const beganMs = performance.now();
    await flood(scene, daemon);
    const tookMs = performance.now() - beganMs;
    ok(tookMs > LEAST_MS, `${tookMs} ms`);
  });
}

scenario("no other program waits with it", async (scene) => {
  const daemon = await startDaemon(scene);
  const raw = await daemon.raw();
  const faults = faultsAtOnce + 4 * faultsPerSecond;
  raw.write("{\n".repeat(faults));
  let heard = 0;
  const all = (async () => {
    for (; heard < faults; heard++) ok((await raw.next()).error);
  })();
  const env = { PROCSUP_SOCKET: daemon.socket };
  is((await runCli(scene, ["info"], { env }).said).code, 0);
  ok(heard < faults, `${heard}`);
  raw.socket.destroy();
  await all.catch(({ message }: Error) => is(message, "the connection ended before a reply"));
});

scenario("of a program that has to wait few connections are kept", async (scene) => {
  const daemon = await startDaemon(scene);
  const raw = await daemon.raw();
  raw.write("{\n".repeat(FAULTS));
  for (let heard = 0; heard < faultsAtOnce; heard++) ok((await raw.next()).error);
  const wires = await Promise.all(Array.from({ length: 60 }, () => openWire(scene, daemon.socket)));
  for (const { socket } of wires) socket.end(requestText("GET /healthz"));
  const answers = await Promise.all(wires.map((wire) => wire.rest()));
  const statuses = answers.flat().map(({ status }) => status);
  is(statuses.length, 60);
  const refused = statuses.filter((status) => status === 429).length;
  ok(refused > 30, `${refused}`);
  ok(statuses.every((status) => status === 429 || status === 200));
});

scenario("what is no fault costs no patience, however often it is refused", async (scene) => {
  const daemon = await startDaemon(scene);
  const raw = await daemon.raw();
  const refused = `${JSON.stringify(call("status", { pid: 2 ** 31 - 1 }))}\n`;
  raw.write(refused.repeat(2 * FAULTS));
  for (let refusals = 0; refusals < 2 * FAULTS; refusals++)
    is((await raw.next()).error?.code, -32001);
  let isServed = false;
  const served = raw.ask(call("info")).then(({ result }) => {
    isServed = true;
    ok(result);
  });
  const env = { PROCSUP_SOCKET: daemon.socket };
  is((await runCli(scene, ["info"], { env }).said).code, 0);
  is(isServed, true);
  await served;
});

scenario("patience is with each program, and comes back", async () => {
  const patienceWith = createPatience(500);
  const [one, again, other] = [patienceWith(1), patienceWith(1), patienceWith(2)];
  one.blame(faultsAtOnce);
  is(again.isOver(), false);
  one.blame(100);
  equal([one.isOver(), again.isOver(), other.isOver()], [true, true, false]);
  await again.turn();
  await until("it is back", () => !one.isOver());
});

scenario("many that wait for the same moment do not go on all at once", async () => {
  const patience = createPatience(1_000)(1);
  const beganMs = performance.now();
  patience.blame(faultsAtOnce + 5);
  await Promise.all(
    Array.from({ length: 10 }, async () => {
      await patience.turn();
      patience.blame(1);
    }),
  );
  // Five milliseconds until the first, and one for each that went before the last.
  const tookMs = performance.now() - beganMs;
  ok(tookMs > 13, `${tookMs} ms`);
});
