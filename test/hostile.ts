// Inputs that no well-behaved client would send, made from a seed: half of them random, half of them
// requests with something wrong in the middle. None of them can name a process or a program of the
// machine: what they spawn does not exist, and whom they end is not there.

import { methods } from "../client/wire.js";

/** Numbers in [0, below), the same for the same seed. Mulberry32. */
export type Dice = (below: number) => number;

export function createDice(seed: number): Dice {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

const oneOf = <T>(dice: Dice, choices: readonly T[]): T => choices[dice(choices.length)] as T;
const bytes = (dice: Dice, length: number) => Buffer.from(Array.from({ length }, () => dice(256)));

const NEWLINE = 10;
/** `rpc.discover` would answer 35 KB each time, and its answers would be most of the work. */
const known = Object.keys(methods).filter((name) => name !== "rpc.discover");
const names = [...known, "rpc.", "toString", "__proto__", "constructor", "", "\0"];
const fields = [
  ...new Set(Object.values(methods).flatMap(({ params }) => Object.keys(params.entries))),
  "__proto__",
  "constructor",
  "toJSON",
  "length",
];
/** JSON texts, so that also what no JavaScript value is can be among them. */
const scalars = [
  "null",
  "true",
  "0",
  "-0",
  "-1",
  "1e999",
  "-1e-999",
  "9007199254740993",
  "2147483648",
  "0.1",
  '""',
  '"x"',
  '"\\u0000"',
  '"\\ud800"',
  '"/nonexistent/procsup"',
  '"SIGKILL"',
  '"tree"',
  '"p000000000000"',
  '"../../../etc/passwd"',
  `"${"y".repeat(300)}"`,
  "[]",
  "{}",
  '["/nonexistent/procsup"]',
  '{"A=B":"c"}',
];

function value(dice: Dice, depth = 0): string {
  const kind = depth > 3 ? 0 : dice(8);
  if (kind === 6) return `[${list(dice, () => value(dice, depth + 1))}]`;
  if (kind === 7) return object(dice, depth + 1);
  return oneOf(dice, scalars);
}

function list(dice: Dice, item: () => string): string {
  return Array.from({ length: dice(4) }, item).join(",");
}

function object(dice: Dice, depth: number): string {
  return `{${list(dice, () => `${JSON.stringify(oneOf(dice, fields))}:${value(dice, depth)}`)}}`;
}

/** A call that is nearly right: mostly a known method, with fields that it or another one knows. */
function request(dice: Dice): string {
  const parts = [
    dice(20) === 0 ? "" : '"jsonrpc":"2.0"',
    dice(10) === 0 ? "" : `"id":${dice(5) === 0 ? value(dice) : dice(1_000)}`,
    `"method":${dice(20) === 0 ? value(dice) : JSON.stringify(oneOf(dice, names))}`,
    dice(10) === 0 ? "" : `"params":${dice(10) === 0 ? value(dice) : object(dice, 0)}`,
    dice(20) === 0 ? `"more":${value(dice)}` : "",
  ];
  return `{${parts.filter((part) => part !== "").join(",")}}`;
}

/** Cut, doubled, or with some bytes changed. */
function damaged(dice: Dice, text: Buffer): Buffer {
  const at = dice(text.length + 1);
  switch (dice(4)) {
    case 0:
      return text.subarray(0, at);
    case 1:
      return Buffer.concat([text.subarray(0, at), bytes(dice, 1 + dice(8)), text.subarray(at)]);
    case 2:
      return Buffer.concat([text, text.subarray(at)]);
    default: {
      const copy = Buffer.from(text);
      for (let n = dice(4); n >= 0; n--) if (copy.length > 0) copy[dice(copy.length)] = dice(256);
      return copy;
    }
  }
}

function json(dice: Dice): Buffer {
  switch (dice(12)) {
    case 0:
      return Buffer.from(`[${list(dice, () => request(dice))}]`);
    case 1:
      return Buffer.from(value(dice));
    case 2:
      return Buffer.from(oneOf(dice, ["[", '{"a":', "[{"]).repeat(1 + dice(200)));
    case 3:
      return bytes(dice, dice(200));
    case 4:
    case 5:
    case 6:
      return damaged(dice, Buffer.from(request(dice)));
    default:
      return Buffer.from(request(dice));
  }
}

/** One line without its newline. */
export function hostileLine(dice: Dice): Buffer {
  return json(dice).map((byte) => (byte === NEWLINE ? 32 : byte)) as Buffer;
}

const methodWords = ["GET", "POST", "POST", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "FOO"];
const paths = [
  "/rpc",
  "/rpc",
  "/api/processes/terminate/2147483647",
  "/api/processes/terminate/",
  "/api/processes/terminate/-1",
  "/api/processes/terminate/1e9",
  "/api/processes/terminate/%00",
  "/healthz",
  "/openrpc.json?x",
  "/../../etc/passwd",
  "*",
  "http://x/rpc",
  "/\xff",
];
const headers = [
  "Host: x",
  "Host: x",
  "Content-Type: application/json",
  "Content-Type: application/json",
  "Content-Type: text/plain",
  "Origin: http://evil.example",
  "Connection: close",
  "Connection: upgrade",
  "Upgrade: websocket",
  "Expect: 100-continue",
  "Expect: something",
  "Transfer-Encoding: chunked",
  "Transfer-Encoding: gzip, chunked",
  "Content-Length: 99999999999999999999",
  "Content-Length: 2000000",
  "Content-Length: -1",
  "Content-Length: 3",
  "Content-Encoding: gzip",
  "X: \x00",
  ": nothing",
  `X: ${"z".repeat(500)}`,
];

/** One HTTP request, or what only looks like one from its first byte. */
export function hostileRequest(dice: Dice): Buffer {
  const head = [
    `${oneOf(dice, methodWords)} ${oneOf(dice, paths)} HTTP/1.${dice(20) === 0 ? 7 : 1}`,
  ];
  for (let n = dice(5); n > 0; n--) head.push(oneOf(dice, headers));
  const body = dice(3) === 0 ? Buffer.alloc(0) : json(dice);
  if (dice(4) > 0) head.push(`Content-Length: ${body.length}`);
  const whole = Buffer.concat([Buffer.from(`${head.join("\r\n")}\r\n\r\n`, "latin1"), body]);
  if (dice(3) > 0) return whole;
  // Still for this door: by its first byte, a capital letter.
  return Buffer.concat([whole.subarray(0, 1), damaged(dice, whole.subarray(1))]);
}
