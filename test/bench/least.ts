// The least daemon that spawns and terminates over a socket: lines of JSON on one side,
// node:child_process on the other. It checks nothing, records nothing, promises nothing: what is left
// is the way through a second process, which no daemon is spared.

import net, { type Socket } from "node:net";
import { answerQuestions, killStarted, type Started, start } from "./program.js";

/** Listen on `socket`. */
export type Question = { socket: string };

type Request = { id: number; params: { command: readonly string[] } | { id: string } };

const running = new Map<string, Started>();

function answer(connection: Socket, { id, params }: Request): void {
  const reply = (name: string) =>
    connection.write(`${JSON.stringify({ jsonrpc: "2.0", id, result: { id: name } })}\n`);
  if ("command" in params) {
    const started = start(params.command);
    running.set(String(started.pid), started);
    reply(String(started.pid));
    return;
  }
  const started = running.get(params.id);
  if (started === undefined) throw new Error(`no process ${params.id}`);
  started.child.once("exit", () => reply(params.id));
  running.delete(params.id);
  process.kill(-started.pid, "SIGTERM");
}

function serve({ socket }: Question): Promise<boolean> {
  const server = net.createServer((connection) => {
    let rest = "";
    connection.setEncoding("utf8");
    connection.on("error", () => connection.destroy());
    connection.on("data", (chunk: string) => {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) answer(connection, JSON.parse(line) as Request);
    });
  });
  return new Promise((resolve) => server.listen(socket, () => resolve(true)));
}

answerQuestions(serve, () => {
  for (const started of running.values()) killStarted(started);
});
