#!/usr/bin/env node
// Lets anybody trace it; with `by-child` a child of its own does. `trace PID` is such a tracer (man 2 ptrace): it
// never waits for whom it traces, so it alone could learn of that end, and does not. It minds no TERM.

import { spawn } from "node:child_process";
import koffi from "koffi";

const PTRACE_SEIZE = 0x4206;
const PR_SET_PTRACER = 0x59616d61;
const libc = koffi.load(null);

function trace(pid) {
  const ptrace = libc.func("long ptrace(long request, int pid, size_t addr, size_t data)");
  process.on("SIGTERM", () => {});
  if (ptrace(PTRACE_SEIZE, pid, 0, 0) !== 0) throw new Error(`ptrace: errno ${koffi.errno()}`);
  console.log("ready");
}

/** Where Yama would let only ancestors trace us; else it is EINVAL, and nobody needs it. man 2 prctl. */
function letAnybodyTrace() {
  libc.func("int prctl(int option, long value)")(PR_SET_PTRACER, -1);
}

const [role, target] = process.argv.slice(2);
if (role === "trace") trace(Number(target));
else letAnybodyTrace();
if (role === undefined) console.log("ready");
if (role === "by-child") {
  const argv = [import.meta.filename, "trace", String(process.pid)];
  spawn(process.execPath, argv, { stdio: "inherit" });
}
setTimeout(() => process.exit(), 300_000);
