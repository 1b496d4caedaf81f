#!/usr/bin/env node
// Root's leader with two children that run as nobody, one in its group and one in a session of its own.

import { spawn } from "node:child_process";

const nobody = { uid: 65534, gid: 65534, cwd: "/" };
spawn("sleep", ["300"], nobody);
spawn("sleep", ["300"], { ...nobody, detached: true });
console.log("ready");
setTimeout(() => process.exit(), 300_000);
