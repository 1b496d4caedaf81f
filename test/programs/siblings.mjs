#!/usr/bin/env node
// Makes N processes that are its siblings, not its children (man 2 clone, CLONE_PARENT), and end at once. Then it
// lives on, or exits with the CODE given.

import koffi from "koffi";

const CLONE_PARENT = 0x8000;
const SIGCHLD = 17;
const libc = koffi.load(null);
const clone = libc.func("int clone(void *start, void *stack, int flags, void *argument)");
// They begin in the C library: a copy of this process that went on in JavaScript would lack its other threads.
const exit = libc.symbol("_exit", "void");
const stack = Buffer.alloc(64 * 1024);

const [count, code] = process.argv.slice(2);
const pids = Array.from({ length: Number(count) }, () =>
  clone(exit, stack.subarray(stack.length / 2), CLONE_PARENT | SIGCHLD, null),
);
if (pids.includes(-1)) throw new Error(`clone: errno ${koffi.errno()}`);
console.log("ready");
if (code !== undefined) process.exit(Number(code));
setTimeout(() => process.exit(), 300_000);
