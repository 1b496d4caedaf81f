// The load generator: raw sockets that send one line, await one line, and send again. It knows neither
// our client nor what is asked, so that both sides of a comparison meet the same caller.

import net from "node:net";
import { answerQuestions } from "./program.js";

/** Ask for `durationMs`, on each of `connections`, always one call at a time. */
export type Question = {
  socket: string;
  request: string;
  connections: number;
  durationMs: number;
};

export type Answer = { calls: number; elapsedMs: number };

const NEWLINE = 10;

/** Connections stay open between rounds: to connect is no part of the figure. */
const pools = new Map<string, net.Socket[]>();

async function poolOf({ socket, request, connections }: Question): Promise<net.Socket[]> {
  const pool = pools.get(socket) ?? [];
  pools.set(socket, pool);
  while (pool.length < connections) {
    const connection = net.connect(socket);
    connection.on("error", fail);
    connection.on("close", () => fail(new Error(`${socket}: closed`)));
    checkReply(await askOnce(connection, request));
    pool.push(connection);
  }
  return pool.slice(0, connections);
}

function fail(error: Error): never {
  console.error(error);
  process.exit(1);
}

/** Resolves with the text of one reply. */
function askOnce(connection: net.Socket, request: string): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    const take = (chunk: Buffer) => {
      text += chunk.toString("utf8");
      if (!text.endsWith("\n")) return;
      connection.off("data", take);
      resolve(text);
    };
    connection.on("data", take);
    connection.write(request);
  });
}

/** An error would be answered faster than a result. */
function checkReply(text: string): void {
  const { result } = JSON.parse(text) as { result?: object };
  if (result === undefined) fail(new Error(`no result: ${text}`));
}

async function run(question: Question): Promise<Answer> {
  const pool = await poolOf(question);
  const request = Buffer.from(question.request);
  const beganMs = performance.now();
  const untilMs = beganMs + question.durationMs;
  const calls = await Promise.all(pool.map((one) => callUntil(one, request, untilMs)));
  const elapsedMs = performance.now() - beganMs;
  return { calls: calls.reduce((sum, count) => sum + count, 0), elapsedMs };
}

/** Replies counted by their last byte: whoever is asked once at a time sends one line at a time. */
function callUntil(connection: net.Socket, request: Buffer, untilMs: number): Promise<number> {
  return new Promise((resolve) => {
    let calls = 0;
    const take = (chunk: Buffer) => {
      if (chunk[chunk.length - 1] !== NEWLINE) return;
      calls += 1;
      if (performance.now() < untilMs) {
        connection.write(request);
        return;
      }
      connection.off("data", take);
      resolve(calls);
    };
    connection.on("data", take);
    connection.write(request);
  });
}

answerQuestions(run);
