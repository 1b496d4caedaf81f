#!/usr/bin/env node
// Holds its child in a tracing stop (man 2 ptrace), where no TERM reaches it, and minds no TERM itself.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import koffi from "koffi";

const PTRACE_SEIZE = 0x4206;
const PTRACE_INTERRUPT = 0x4207;
const ptrace = koffi
  .load(null)
  .func("long ptrace(long request, int pid, size_t addr, size_t data)");

process.on("SIGTERM", () => {});
const child = spawn("sleep", ["300"]);
for (const request of [PTRACE_SEIZE, PTRACE_INTERRUPT]) {
  if (ptrace(request, child.pid, 0, 0) !== 0) throw new Error(`ptrace: errno ${koffi.errno()}`);
}
const look = setInterval(() => {
  if (!/\) t /.test(readFileSync(`/proc/${child.pid}/stat`, "latin1"))) return;
  clearInterval(look);
  console.log("ready");
}, 2);
setTimeout(() => process.exit(), 300_000);
