#!/usr/bin/env node
// Starts a daemon that hides: its own session, no environment, standard streams closed, another title.
// Told `leave`, the leader then ends by itself with 5.

import { spawn } from "node:child_process";
import { closeSync } from "node:fs";

if (process.argv[2] === "hidden") {
  process.title = "init";
  for (const fd of [0, 1, 2]) closeSync(fd);
} else {
  const daemon = spawn(process.execPath, [import.meta.filename, "hidden"], {
    detached: true,
    env: {},
    stdio: ["ignore", "pipe", "ignore"],
  });
  daemon.stdout.resume().once("end", () => {
    console.log("ready");
    if (process.argv[2] === "leave") process.exit(5);
  });
}
setTimeout(() => process.exit(), 300_000);
