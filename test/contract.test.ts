// The contract told in three places (OpenRPC, its own list of refusals, README) is one and the same.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { equal, is, ok } from "uvu/assert";
import { processEntries } from "../client/shapes.js";
import { kinds, methods, statuses } from "../client/wire.js";
import { startDaemon } from "./daemon.js";
import { scenario } from "./scenario.js";

/** Its own type declarations do not pass a strict compiler. */
const { validateOpenRPCDocument } = createRequire(import.meta.url)("@open-rpc/schema-utils-js") as {
  validateOpenRPCDocument(document: unknown): true | Error;
};

scenario(
  "rpc.discover answers a valid OpenRPC document of exactly the contract's methods",
  async (scene) => {
    const client = await (await startDaemon(scene)).connect();
    const document = await client.call("rpc.discover", {});
    is(validateOpenRPCDocument(document), true);
    type Described = { name: string; params: { name: string; required?: boolean }[] };
    const described = document["methods"] as Described[];
    equal(
      described.map(({ name, params }) => [name, params.map((param) => param.name)]),
      Object.entries(methods).map(([name, { params }]) => [name, Object.keys(params.entries)]),
    );
    const required = described.flatMap(({ name, params }) =>
      params.filter((param) => param.required).map((param) => `${name} ${param.name}`),
    );
    equal(required, ["spawn command", "signal signal", "unsubscribe subscription"]);
  },
);

scenario("no method is silent about what all, or all that name a process, are refused for", () => {
  for (const [name, { params, refusals }] of Object.entries(methods)) {
    const said: readonly string[] = refusals;
    const namesProcess = "id" in params.entries || "after" in params.entries;
    const due = namesProcess ? ["process_not_found", "permission_denied"] : [];
    for (const kind of ["limit_exceeded", ...due]) ok(said.includes(kind), `${name}: ${kind}`);
    is(new Set(said).size, said.length, name);
  }
});

scenario(
  "every refusal kind has a code of its own, in the range that JSON-RPC leaves to servers",
  () => {
    const codes = Object.values(kinds).map(({ code }) => code);
    is(new Set(codes).size, codes.length);
    for (const code of codes) ok(code <= -32000 && code >= -32768);
  },
);

scenario("the README names every method, kind, status and field of the contract", () => {
  const readme = readFileSync(join(import.meta.dirname, "../../README.md"), "utf8");
  for (const [kind, { code, http }] of Object.entries(kinds)) {
    ok(readme.includes(`\n| \`${kind}\` | ${code}, ${http} |`), kind);
  }
  const words = [...Object.keys(methods), ...statuses, ...Object.keys(processEntries)];
  const missing = words.filter((word) => !readme.includes(`\`${word}\``));
  equal(missing, []);
});
