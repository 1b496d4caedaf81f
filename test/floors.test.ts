// The architecture as a test: imports go down only, the client knows nothing of the daemon, and no file
// is named after nothing.

import { readdirSync, readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { equal } from "uvu/assert";
import { scenario } from "./scenario.js";

const root = resolve(import.meta.dirname, "../..");

/** From the ground up; a file may import from lower floors only. DESIGN.md says what each is for. */
const floors: Record<string, string[][]> = {
  client: [
    ["refusal", "version", "socket", "install"],
    ["shapes"],
    ["wire", "lines"],
    ["client", "arguments", "print"],
    ["logs", "outcome"],
    ["cli"],
  ],
  daemon: [
    [
      "native",
      "access",
      "state",
      "settings",
      "log",
      "history",
      "openrpc",
      "slices",
      "job",
      "reserve",
    ],
    ["unix", "files", "users", "procfs", "pidfd", "tag", "records", "shares", "patience"],
    ["listen", "systemd", "journald", "containment", "gate", "usage", "rpc", "identity", "signs"],
    ["output", "journal", "reload", "cgroup", "found", "ladder", "leader", "growth", "routes"],
    ["reading", "group", "launch", "cap"],
    ["feed", "choose", "table"],
    ["reports", "connection"],
    ["supervisor"],
    ["spawn", "strays", "stop"],
    ["adopt", "methods", "caller", "sweep"],
    ["recover", "accept", "door", "http"],
    ["main"],
    ["procsupd"],
  ],
};

function importsOf(file: string): string[] {
  const text = readFileSync(file, "utf8");
  return [...text.matchAll(/from "(\.[^"]+)\.js"|import\("(\.[^"]+)\.js"\)/g)].map(
    ([, from, dynamic]) => resolve(file, "..", from ?? dynamic ?? ""),
  );
}

for (const [folder, levels] of Object.entries(floors)) {
  const floorOf = (name: string) => levels.findIndex((level) => level.includes(name));
  const files = readdirSync(join(root, folder)).filter((name) => name.endsWith(".ts"));

  scenario(`every file of ${folder}/ has its floor, and no floor holds a ghost`, () => {
    equal(files.map((name) => basename(name, ".ts")).sort(), levels.flat().sort());
  });

  scenario(`imports in ${folder}/ go down only`, () => {
    for (const name of files) {
      const own = floorOf(basename(name, ".ts"));
      const upward = importsOf(join(root, folder, name))
        .filter((path) => path.startsWith(join(root, folder)))
        .filter((path) => floorOf(basename(path)) >= own);
      equal(upward, [], name);
    }
  });
}

scenario("the client imports nothing of the daemon", () => {
  const files = readdirSync(join(root, "client")).map((name) => join(root, "client", name));
  equal(
    files.flatMap(importsOf).filter((path) => !path.startsWith(join(root, "client"))),
    [],
  );
});

scenario("no file is named after nothing", () => {
  const names = ["client", "daemon", "test"].flatMap((folder) => readdirSync(join(root, folder)));
  const empty = /util|helper|manager|handler|service|common|misc|index/i;
  equal(
    names.filter((name) => empty.test(name)),
    [],
  );
});
