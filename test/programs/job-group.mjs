#!/usr/bin/env node
// What a shell's job control (set -m) does, which sh refuses without a terminal: in the leader's session
// a child with a process group of its own (man 2 setpgid), and in that a grandchild.

import { spawn } from "node:child_process";
import koffi from "koffi";

if (process.argv[2] === "job") {
  const setpgid = koffi.load(null).func("int setpgid(int pid, int pgid)");
  if (setpgid(0, 0) !== 0) throw new Error(`setpgid: errno ${koffi.errno()}`);
  spawn("sleep", ["300"]).once("spawn", () => console.log("ready"));
} else {
  spawn(process.execPath, [import.meta.filename, "job"], { stdio: "inherit" });
}
setTimeout(() => process.exit(), 300_000);
