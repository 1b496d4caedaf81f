// The test runner: every *.test.js in a process of its own, five at a time, with a time limit. uvu exits
// 0 on throwing hooks, forgotten runs and left-over `only`s, so a file
// counts only by what it printed: how many scenarios ran and how many of them passed.

import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";

const FILE_LIMIT_MS = 170_000;
const AT_ONCE = 5;

/** Nothing here speaks TLS, and to parse more certificates takes each start of node 70 ms. */
const { NODE_EXTRA_CA_CERTS: _, ...env } = process.env;

type Counts = { passed: number; failed: number; skipped: number };

function runFile(path: string): Promise<Counts> {
  return new Promise((resolve) => {
    const begunMs = performance.now();
    const child = spawn(process.execPath, ["--enable-source-maps", path], {
      detached: true,
      env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    const take = (chunk: Buffer) => {
      output += chunk.toString();
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    const killGroup = () => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
      }
    };
    const timer = setTimeout(() => {
      output += `\ntimed out after ${FILE_LIMIT_MS} ms\n`;
      killGroup();
    }, FILE_LIMIT_MS);
    child.on("close", (code) => {
      clearTimeout(timer);
      resolve(judge(path, code, output, performance.now() - begunMs));
    });
  });
}

function judge(path: string, code: number | null, output: string, elapsedMs: number): Counts {
  const count = (word: string) =>
    [...output.matchAll(new RegExp(`^\\s*${word}:\\s+(\\d+)`, "gm"))].reduce(
      (sum, [, digits]) => sum + Number(digits),
      0,
    );
  const total = count("Total");
  const passed = count("Passed");
  const skipped = count("Skipped");
  const broken = code !== 0 || total + skipped === 0 || passed !== total;
  const skippedInCi = process.env["CI"] !== undefined && skipped > 0;
  const failed = broken || skippedInCi ? Math.max(1, total - passed) : 0;
  if (failed > 0 || skipped > 0) console.log(output);
  const name = path.replace(/^.*dist\/test\//, "");
  console.log(
    `${failed > 0 ? "FAIL" : "ok  "} ${name} (${passed} of ${total}, ${Math.round(elapsedMs / 1000)} s)`,
  );
  return { passed, failed, skipped };
}

/** Begun first, so that none of them is left alone at the end. */
function isLong(file: string): boolean {
  return /^(crash|escapes|fuzz|patience|strays|systemd)/.test(file);
}

async function main(): Promise<void> {
  console.log(`node ${process.version}`);
  const only = process.argv.slice(2);
  const folder = import.meta.dirname;
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".test.js"))
    .filter((file) => only.length === 0 || only.some((part) => file.includes(part)))
    .sort((a, b) => Number(isLong(b)) - Number(isLong(a)) || a.localeCompare(b));
  const sum: Counts = { passed: 0, failed: 0, skipped: 0 };
  const queue = [...files];
  const work = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const counts = await runFile(join(folder, file));
      sum.passed += counts.passed;
      sum.failed += counts.failed;
      sum.skipped += counts.skipped;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  if (files.length === 0) sum.failed += 1;
  const skipped = sum.skipped > 0 ? `, ${sum.skipped} skipped` : "";
  console.log(`\n${sum.passed} passed, ${sum.failed} failed${skipped}`);
  process.exitCode = sum.failed === 0 ? 0 : 1;
}

await main();
