// The suite under each supported line of Node: `npm run test:nodes [-- PART_OF_A_FILE_NAME]`. The
// binaries come from npm's node-PLATFORM-ARCH packages, since installing `node` itself needs its
// install script. They stay until node_modules/.cache/procsup-nodes is removed, newer ones or not.

import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { delimiter, dirname, join, resolve } from "node:path";

const MAJORS = [20, 22, 24];
const cache = resolve(import.meta.dirname, "../../node_modules/.cache/procsup-nodes");
const runner = join(import.meta.dirname, "run.js");

type Ran = { status: number | null; output: string };

function run(file: string, args: string[], env = process.env): Ran {
  const { status, stdout, stderr, error } = spawnSync(file, args, {
    env,
    encoding: "utf8",
    maxBuffer: Number.POSITIVE_INFINITY,
    stdio: ["ignore", "pipe", "pipe"],
  });
  return { status, output: error ? String(error) : `${stdout}${stderr}`.trim() };
}

/** The binary of this major, installed unless one that starts is there. */
function provide(major: number): string {
  const name = `node-${process.platform}-${process.arch}`;
  const folder = join(cache, String(major));
  const file = join(folder, "node_modules", name, "bin/node");
  const starts = () => run(file, ["--version"]).output.startsWith(`v${major}.`);
  if (starts()) return file;
  mkdirSync(folder, { recursive: true });
  const quiet = ["--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"];
  const npm = run("npm", ["install", "--prefix", folder, ...quiet, `${name}@${major}`]);
  if (npm.status !== 0) throw new Error(`cannot install ${name}@${major}: ${npm.output}`);
  if (!starts()) throw new Error(`${file} does not start: ${run(file, ["--version"]).output}`);
  return file;
}

/** Run the suite under this binary; gives the runner's last word, throws unless all passed. */
function testUnder(file: string): string {
  // First in PATH too, for what starts through `#!/usr/bin/env node`.
  const env = { ...process.env, PATH: `${dirname(file)}${delimiter}${process.env["PATH"]}` };
  const { output: version } = run(file, ["--version"]);
  const { output: byPath } = run("/usr/bin/env", ["node", "--version"], env);
  if (byPath !== version) throw new Error(`PATH leads to Node ${byPath}, not ${version}`);
  const { status, output } = run(file, [runner, ...process.argv.slice(2)], env);
  const ranUnder = /^node (v\S+)$/m.exec(output)?.[1];
  const tally = output.match(/^\d+ passed, \d+ failed.*$/gm)?.at(-1) ?? `no tally, exit ${status}`;
  if (ranUnder !== version) throw new Error(`ran under ${ranUnder}, not ${version}\n${output}`);
  if (status !== 0) throw new Error(`${version}: ${tally}\n${output}`);
  return `${version}: ${tally}`;
}

function main(): void {
  const failed: number[] = [];
  for (const major of MAJORS) {
    try {
      console.log(`node ${testUnder(provide(major))}`);
    } catch (error) {
      failed.push(major);
      console.log(`node ${major} FAILED: ${(error as Error).message}`);
    }
  }
  const verdict = failed.length === 0 ? "all pass" : `FAILED on ${failed.join(", ")}`;
  console.log(`\nNode ${MAJORS.join(", ")}: ${verdict}`);
  process.exitCode = failed.length === 0 ? 0 : 1;
}

main();
