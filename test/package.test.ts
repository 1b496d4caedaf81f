// What is published, as npm would pack it.

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { equal, is, ok } from "uvu/assert";
import { version } from "../client/version.js";
import { scenario } from "./scenario.js";

const root = resolve(import.meta.dirname, "../..");
const read = (path: string) => readFileSync(join(root, path), "utf8");

type Packed = { files: { path: string }[] };

function filesPacked(): string[] {
  const args = ["pack", "--dry-run", "--json", "--ignore-scripts"]; // as it is built now
  const { stdout, stderr, status } = spawnSync("npm", args, { cwd: root, encoding: "utf8" });
  is(status, 0, stderr);
  const [packed] = JSON.parse(stdout) as Packed[];
  return (packed?.files ?? []).map(({ path }) => path);
}

const files = filesPacked();

scenario("the version is the package's", () => {
  is(version, (JSON.parse(read("package.json")) as { version: string }).version);
});

scenario("no module that is packed names one, or a source map, that is not", () => {
  const modules = files.filter((path) => /^dist\/client\/.*\.(js|d\.ts)$/.test(path));
  ok(modules.length > 0);
  for (const path of modules) {
    const named = read(path).matchAll(/from "(\.[^"]+)"|^\/\/# sourceMappingURL=(.+)/gm);
    const near = [...named].map(([, module, map]) => module ?? map ?? "");
    for (const name of near) ok(files.includes(join(path, "..", name)), `${path} names ${name}`);
  }
});

scenario("whatever the programs contain of others comes with its licence", () => {
  ok(files.includes("dist/THIRD-PARTY.txt"));
  const [, ...notices] = read("dist/THIRD-PARTY.txt").split(/^-{80}$/m);
  const told = notices.map(
    (notice) => /^(\S+) [\d.]+ \((?:MIT|ISC)\)\n\n.*copyright/is.exec(notice.trim())?.[1],
  );
  // The bundles themselves say where each of their parts is from.
  const parts = ["procsup", "procsupd"].flatMap((program) => [
    ...read(`dist/${program}.cjs`).matchAll(/^\/\/ .*node_modules\/((?:@[^/]+\/)?[^/]+)\//gm),
  ]);
  equal(told, [...new Set(parts.map(([, name]) => name))].sort());
});
