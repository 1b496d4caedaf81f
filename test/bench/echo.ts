// The floor under `status`: newline-framed JSON-RPC on a Unix socket with nothing behind it. It parses
// each request and answers with a constant result; it checks nothing and knows no methods.

import net from "node:net";
import { answerQuestions } from "./program.js";

/** Listen on `socket`, answering everything with `result`. */
export type Question = { socket: string; result: object };

function serve({ socket, result }: Question): Promise<boolean> {
  const server = net.createServer((connection) => {
    let rest = "";
    connection.setEncoding("utf8");
    connection.on("error", () => connection.destroy());
    connection.on("data", (chunk: string) => {
      rest += chunk;
      for (let end = rest.indexOf("\n"); end >= 0; end = rest.indexOf("\n")) {
        const { id } = JSON.parse(rest.slice(0, end)) as { id: number };
        rest = rest.slice(end + 1);
        connection.write(`${JSON.stringify({ jsonrpc: "2.0", id, result })}\n`);
      }
    });
  });
  return new Promise((resolve) => server.listen(socket, () => resolve(true)));
}

answerQuestions(serve);
