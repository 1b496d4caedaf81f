// The architecture as a test: imports go down only, the client knows nothing of the daemon, and no file
// is named after nothing. Within a folder, Biome refuses cycles.

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { equal } from "uvu/assert";
import { scenario } from "./scenario.js";

const root = resolve(import.meta.dirname, "../..");

/** From the ground up; a file may import from its own folder and from lower ones. */
const floors = [
  "client",
  "daemon/kernel",
  "daemon/runtime",
  "daemon/life",
  "daemon/output",
  "daemon/tree",
  "daemon/processes",
  "daemon/doors",
  "daemon",
  "client/cli",
];

const files = ["client", "daemon"].flatMap((top) =>
  readdirSync(join(root, top), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => join(top, name)),
);

/** Relative to the root, without their endings. */
function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), "utf8");
  return [...text.matchAll(/(?:from|import) ?\(?"(\.[^"]+)\.js"/g)].map(([, path]) =>
    relative(root, resolve(root, dirname(file), path ?? "")),
  );
}

scenario("every folder has its floor, and no floor is a ghost", () => {
  equal([...new Set(files.map(dirname))].sort(), [...floors].sort());
});

scenario("imports go down only", () => {
  const upward = files.flatMap((file) => {
    const own = floors.indexOf(dirname(file));
    const above = importsOf(file).filter((path) => floors.indexOf(dirname(path)) > own);
    return above.map((path) => `${file} imports ${path}`);
  });
  equal(upward, []);
});

scenario("the client imports nothing of the daemon, and the daemon nothing of the CLI", () => {
  const isOf = (top: string) => (path: string) => path.startsWith(top);
  const foreign = [
    ...files.filter(isOf("client/")).flatMap(importsOf).filter(isOf("daemon/")),
    ...files.filter(isOf("daemon/")).flatMap(importsOf).filter(isOf("client/cli/")),
  ];
  equal(foreign, []);
});

scenario("no file is named after nothing", () => {
  const names = [...files, ...readdirSync(join(root, "test"))];
  const empty = /util|helper|manager|handler|service|common|misc|index/i;
  equal(
    names.filter((name) => empty.test(name)),
    [],
  );
});
