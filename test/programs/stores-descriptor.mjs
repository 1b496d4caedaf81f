#!/usr/bin/env node
// A unit's main process that has systemd keep the pidfd of a child, which then ends and is reaped. Started again,
// it says in its status what it was given back.

import { spawn } from "node:child_process";
import { readlinkSync } from "node:fs";
import { pidfdOpen } from "../../dist/daemon/kernel/native.js";
import { readUnit } from "../../dist/daemon/runtime/settings.js";
import { connectManager } from "../../dist/daemon/runtime/systemd.js";

const unit = readUnit(process.env, process.pid);
const manager = connectManager(unit, () => "");
const given = unit.fds.get("p0123456789ab") ?? [];
if (given.length === 0) {
  const child = spawn("sleep", ["1000"]);
  manager.store("p0123456789ab", [pidfdOpen(child.pid)]);
  const settled = await manager.settled(5_000);
  child.kill();
  child.once("exit", () => manager.tell("READY=1", `STATUS=stored ${settled}`));
} else {
  manager.unstore("p0123456789ab");
  const links = given.map((fd) => readlinkSync(`/proc/self/fd/${fd}`));
  manager.tell("READY=1", `STATUS=found ${links}`);
}
setInterval(() => undefined, 60_000);
