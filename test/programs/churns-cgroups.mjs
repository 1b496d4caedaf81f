// Makes cgroups below its own and removes them, without end, in `$1` programs at once: as a container
// runtime does.

import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmdirSync } from "node:fs";
import { join, relative } from "node:path";

const mounts = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
const [, , , root, point] = mounts.find((line) => line.includes(" - cgroup2 ")).split(" ");
const [, own] = /^0::(.*)$/m.exec(readFileSync("/proc/self/cgroup", "utf8"));
const folder = join(point, relative(root, own), `churn-${process.pid}`);

const [, file, more] = process.argv;
if (Number(more) > 1) spawn(process.execPath, [file, String(more - 1)], { stdio: "inherit" });
console.log("ready");
for (;;) {
  mkdirSync(folder);
  mkdirSync(join(folder, "inner"));
  rmdirSync(join(folder, "inner"));
  rmdirSync(folder);
}
