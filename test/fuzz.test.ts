// 100,000 inputs that nobody should send, over both doors of one daemon: whatever they are, it answers in
// the contract's words or hangs up, logs no bug, keeps its size, and answers who asks properly meanwhile.

import net from "node:net";
import { is, ok } from "uvu/assert";
import { kinds } from "../client/wire.js";
import { configFile, type Daemon, rssMib, startDaemon } from "./daemon.js";
import { createDice, type Dice, hostileLine, hostileRequest } from "./hostile.js";
import { type Scene, scenario, within } from "./scenario.js";

const LINES = 88_000;
const REQUESTS = 12_000;
/** Before memory is measured: compiled code, grown heaps and a full history are no growth. */
const WARM_UP = 0.2;
/** Lines between two proofs that all of them are answered. */
const LINES_A_ROUND = 500;
const CONNECTIONS = 8;
/**
 * V8 lets garbage lie: the young generation alone may be 16 MiB fuller at one moment than at another,
 * and the old one grows by half before it is swept: up to 28 MiB on Node 22, after 80,000 inputs as
 * after 300,000. Kept, they (text and what it becomes, 500 bytes) would be more.
 */
const GROWTH_MIB = 36;
const LIMIT_MS = 100_000;

const seed = Number(process.env["PROCSUP_SEED"] ?? 20_261_125);
const codes = new Set(Object.values(kinds).map(({ code }) => code as number));
/** Nothing ends here and nothing breaks, so 500 is none of them. */
const statuses = new Set([100, 200, 204, 400, 403, 404, 405, 409, 413, 415, 417, 422, 429, 431]);

/** Send lines; resolves when the daemon has answered a proper call behind them. */
function sendLines(socket: net.Socket, lines: Buffer[], mark: string): Promise<void> {
  const last = Buffer.from(`\n{"jsonrpc":"2.0","id":"${mark}","method":"info"}\n`);
  const joined = Buffer.concat(lines.flatMap((line) => [line, Buffer.from("\n")]));
  return new Promise((done, fail) => {
    let rest = "";
    const closed = () => fail(new Error("the line door hung up"));
    const take = (chunk: string) => {
      const cut = (rest + chunk).split("\n");
      rest = cut.pop() ?? "";
      for (const line of cut) {
        if (judgeLine(line, mark)) {
          socket.off("data", take).off("close", closed);
          done();
        }
      }
    };
    socket.on("data", take).on("close", closed);
    socket.write(Buffer.concat([joined, last]));
  });
}

type Answer = { id?: unknown; result?: unknown; error?: { code: number }; method?: string };

/** Throws unless it is in the contract's words; true when it is the answer to `mark`. */
function judgeLine(line: string, mark: string): boolean {
  const parsed = JSON.parse(line) as Answer | Answer[];
  for (const answer of Array.isArray(parsed) ? parsed : [parsed]) {
    if (answer.method === "event" || answer.result !== undefined) continue;
    const code = answer.error?.code ?? 0;
    ok(codes.has(code) && code !== kinds.internal_error.code, line.slice(0, 300));
  }
  return !Array.isArray(parsed) && parsed.id === mark;
}

/** One request on a connection of its own, half-closed behind it: resolves when the daemon closes. */
function sendRequest(path: string, request: Buffer): Promise<void> {
  return new Promise((done, fail) => {
    let text = "";
    const socket = net.connect({ path, allowHalfOpen: true });
    socket.setEncoding("latin1");
    socket.on("data", (chunk: string) => {
      text += chunk;
    });
    socket.on("error", () => socket.destroy()); // it has hung up before it was sent all
    socket.on("end", () => socket.destroy());
    socket.on("close", () => {
      try {
        judgeResponses(text);
        done();
      } catch (cause) {
        fail(new Error(`${JSON.stringify(request.toString("latin1"))}: ${cause}`, { cause }));
      }
    });
    socket.end(request);
  });
}

/** By their status lines: how long an answer to HEAD is, only who asked can tell. */
function judgeResponses(text: string): void {
  ok(text === "" || text.startsWith("HTTP/1.1 "), text);
  ok(!text.includes(String(kinds.internal_error.code)), text);
  for (const [, digits] of text.matchAll(/^HTTP\/1\.1 (\d{3}) /gm)) {
    ok(statuses.has(Number(digits)), `${digits} ${text}`);
  }
}

type Run = { daemon: Daemon; dice: Dice; scene: Scene };

async function fuzzLines({ daemon, dice, scene }: Run, inputs: number): Promise<void> {
  const connect = async () => {
    const socket = net.connect(daemon.socket);
    scene.after(() => void socket.destroy());
    socket.setEncoding("utf8");
    socket.on("error", () => socket.destroy());
    for (let sent = 0; sent < inputs / CONNECTIONS; sent += LINES_A_ROUND) {
      const lines = Array.from({ length: LINES_A_ROUND }, () => hostileLine(dice));
      // Its own first byte is the line door's, whatever comes first.
      await sendLines(socket, [Buffer.from(" "), ...lines], `mark-${sent}`);
    }
    socket.destroy();
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, connect));
}

async function fuzzRequests({ daemon, dice }: Run, inputs: number): Promise<void> {
  let left = inputs;
  const work = async () => {
    for (; left > 0; left--) await sendRequest(daemon.socket, hostileRequest(dice));
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, work));
}

async function fuzz(run: Run, share: number): Promise<void> {
  await fuzzLines(run, LINES * share);
  await fuzzRequests(run, REQUESTS * share);
}

scenario(
  `hostile inputs leave the daemon as it was, seed ${seed}`,
  async (scene) => {
    // Its patience would spare it most of them.
    const args = configFile(scene, { faultsPerSecond: 1_000_000 });
    const daemon = await startDaemon(scene, { args });
    const client = await daemon.connect();
    const { id } = await client.spawn({ command: ["sleep", "1000"], name: "well_behaved" });
    const run = { daemon, dice: createDice(seed), scene };
    await fuzz(run, WARM_UP);
    const before = rssMib(daemon);
    let over = false;
    let answered = 0;
    const beside = (async () => {
      for (; !over; answered++) {
        const { status } = await within(5_000, "an answer beside it", () => client.status({ id }));
        is(status, "running");
      }
    })();
    await fuzz(run, 1 - WARM_UP);
    over = true;
    await beside;
    ok(answered > 100, `only ${answered} answers beside it`);
    const grown = rssMib(daemon) - before;
    ok(grown < GROWTH_MIB, `grew by ${grown} MiB`);
    is(daemon.child.exitCode, null);
    is(daemon.log.filter((line) => line.includes("unforeseen")).join("\n"), "");
    const { counts } = await client.info({});
    is(counts["running"], 1);
  },
  LIMIT_MS,
);
