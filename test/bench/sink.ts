// Where a flood goes that is to trouble nobody but the machine: every line and every request gets the
// same answer, and nothing is read of either.

import net, { type Socket } from "node:net";
import { answerQuestions } from "./program.js";

/** Listen on `socket`. */
export type Question = { socket: string };

const NEWLINE = 10;
const line = '{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid Request"},"id":null}\n';
const mark = '{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"},"id":"mark"}\n';
const response = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

function answer(connection: Socket, chunk: Buffer): void {
  const [first = 0] = chunk;
  if (first >= 0x41 && first <= 0x5a) {
    connection.end(response);
    return;
  }
  const lines = chunk.reduce((count, byte) => (byte === NEWLINE ? count + 1 : count), 0);
  connection.write(line.repeat(lines) + (chunk.includes('"mark"') ? mark : ""));
}

function serve({ socket }: Question): Promise<boolean> {
  const server = net.createServer({ allowHalfOpen: true }, (connection) => {
    connection.on("error", () => connection.destroy());
    connection.on("data", (chunk: Buffer) => answer(connection, chunk));
    connection.on("end", () => connection.end());
  });
  return new Promise((resolve) => server.listen(socket, () => resolve(true)));
}

answerQuestions(serve);
