// HTTP for scenarios: curl as anybody has it, Node's own client, and bare bytes whose answers are cut by
// what HTTP says of their length.

import { execFile, spawnSync } from "node:child_process";
import http from "node:http";
import net from "node:net";
import { equal, is, ok } from "uvu/assert";
import type { Scene } from "./scenario.js";

export type Response = { status: number; headers: Record<string, string>; text: string };

/** Why there is no curl; null when there is. */
export const noCurl: string | null =
  spawnSync("curl", ["--version"]).error === undefined ? null : "needs curl";

/** Ask by curl: `args` as on its command line, behind the socket. */
export function curl(socket: string, path: string, ...args: string[]): Promise<Response> {
  const argv = ["-sS", "-i", "--unix-socket", socket, ...args, `http://procsup${path}`];
  return new Promise((done, fail) => {
    execFile("curl", argv, (error, stdout) => {
      const [response] = readResponses(stdout);
      if (response === undefined) fail(error ?? new Error(`no response: ${stdout}`));
      else done(response);
    });
  });
}

export type Asked = {
  method?: string;
  headers?: Record<string, string>;
  body?: string | Buffer;
  agent?: http.Agent;
};

/** Ask by Node's client, on a connection of its own unless an agent is given. */
export function ask(
  socketPath: string,
  path: string,
  { method = "POST", headers = {}, body = "", agent }: Asked = {},
): Promise<Response & { reused: boolean }> {
  return new Promise((done, fail) => {
    const options = { socketPath, path, method, headers, agent: agent ?? false };
    const request = http.request(options, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        text += chunk;
      });
      response.on("end", () => {
        const { statusCode: status = 0, headers: got } = response;
        const { reusedSocket: reused } = request;
        done({ status, headers: got as Record<string, string>, text, reused });
      });
    });
    request.on("error", fail);
    request.end(body);
  });
}

/** The contract's own route. */
export const route = (pid: number | string | null) => `/api/processes/terminate/${pid}`;

export const json = { "content-type": "application/json" };

/** POST a JSON value. */
export function post(socket: string, path: string, value: unknown) {
  return ask(socket, path, { headers: json, body: JSON.stringify(value) });
}

/** Of a number that nobody has. */
export const nobody = route(2 ** 31 - 1);

/** A request as bytes. */
export function requestText(head: string, body = "", fields: string[] = []): string {
  const length =
    body === "" ? [] : ["Content-Type: application/json", `Content-Length: ${body.length}`];
  return `${[`${head} HTTP/1.1`, "Host: procsup", ...length, ...fields].join("\r\n")}\r\n\r\n${body}`;
}

/** A bare connection, and the whole responses that came over it. */
export type Wire = {
  readonly socket: net.Socket;
  /** The next response. Rejects when the connection ends first. */
  next(): Promise<Response>;
  /** All further responses, once the daemon has closed its half. */
  rest(): Promise<Response[]>;
};

export async function openWire(scene: Scene, path: string): Promise<Wire> {
  const socket = net.connect({ path, allowHalfOpen: true });
  scene.after(() => void socket.destroy());
  let text = "";
  let taken = 0;
  let over = false;
  let wake = () => {};
  const change = () => wake();
  socket.setEncoding("latin1");
  socket.on("data", (chunk: string) => {
    text += chunk;
    change();
  });
  socket.on("error", () => socket.destroy());
  for (const event of ["end", "close"]) {
    socket.on(event, () => {
      over = true;
      change();
    });
  }
  await new Promise<void>((go, fail) => {
    socket.once("connect", go);
    socket.once("error", fail);
  });
  const until = async (done: () => boolean) => {
    while (!done()) {
      await new Promise<void>((go) => {
        wake = go;
      });
    }
  };
  return {
    socket,
    async next() {
      await until(() => over || readResponses(text).length > taken);
      const response = readResponses(text)[taken];
      if (response === undefined)
        throw new Error(`the connection ended before a response: ${text}`);
      taken += 1;
      return response;
    },
    async rest() {
      await until(() => over);
      return readResponses(text).slice(taken);
    },
  };
}

/** The whole responses at the beginning of a text, cut by their Content-Length; 100s are passed over. */
function readResponses(text: string): Response[] {
  const found: Response[] = [];
  for (let at = 0; ; ) {
    const end = text.indexOf("\r\n\r\n", at);
    if (end < 0) return found;
    const [first = "", ...fields] = text.slice(at, end).split("\r\n");
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(first)?.[1]);
    if (Number.isNaN(status)) throw new Error(`no status line: ${first}`);
    const headers = Object.fromEntries(
      fields.map((field) => [
        field.slice(0, field.indexOf(":")).toLowerCase(),
        field.slice(field.indexOf(":") + 1).trim(),
      ]),
    );
    const from = end + 4;
    at = from + Number(headers["content-length"] ?? 0);
    if (at > text.length) return found;
    if (status !== 100) found.push({ status, headers, text: text.slice(from, at) });
  }
}

/** The body holds the text and nothing else, as the contract has it; the kind is a header. */
export function failure({ text, headers }: Response): { error: string; kind: string } {
  const { error, ...more } = JSON.parse(text) as { error: string };
  equal([typeof error, more], ["string", {}]);
  return { error, kind: String(headers["procsup-kind"]) };
}

export function assertFailed(
  response: Response,
  status: number,
  kind: string,
  what?: string,
): void {
  is(response.status, status, `${what}: ${response.text}`);
  is(failure(response).kind, kind, what);
  is(response.headers["content-type"], "application/json");
  ok(response.text.endsWith("}\n"), what);
}
