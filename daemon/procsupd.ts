#!/usr/bin/env node
// What is executed: the system calls first, since nothing can be done without them, then the daemon.
// Where they cannot be had, that is said in one sentence.

import("./kernel/native.js").then(() => import("./main.js"), refuseToStart);

/** Ends with EX_CONFIG of sysexits.h, as for whatever else about the machine keeps the daemon from starting. */
function refuseToStart(error: Error): never {
  const [reason] = error.message.split("\n"); // Node names who required what in further lines
  process.stderr.write(
    `procsupd: cannot make system calls through koffi: ${reason}; run npm install again in procsup's ` +
      "folder, on this machine and with its optional packages (Linux on x64 and arm64 have one)\n",
  );
  process.exit(78);
}
