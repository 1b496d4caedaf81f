// What can be wrong with a command before it runs: named at once where it can be, else just afterwards.

import { spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  openSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { equal, is } from "uvu/assert";
import type { Client } from "../client/client.js";
import { Refusal } from "../client/wire.js";
import { enterCgroup } from "../daemon/tree/gate.js";
import { containments } from "./cage.js";
import { startDaemon } from "./daemon.js";
import { scenario, skipped, whyNot } from "./scenario.js";

async function refusedSpawn(client: Client, params: Parameters<Client["spawn"]>[0]) {
  try {
    await client.spawn(params);
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
  throw new Error("expected a refusal");
}

const isNamed = "every way a spawn can fail is named by stage and errno";

for (const containment of containments)
  scenario(`${containment}: ${isNamed}`, async (scene) => {
    const args = ["--containment", containment];
    const client = await (await startDaemon(scene, { args })).connect();
    const file = (name: string, text: string, mode: number) => {
      const path = join(scene.folder, name);
      writeFileSync(path, text);
      chmodSync(path, mode);
      return path;
    };
    const busy = join(scene.folder, "busy");
    copyFileSync("/bin/true", busy);
    chmodSync(busy, 0o755);
    const writer = openSync(busy, "r+");
    scene.after(() => rmSync(busy));
    is(writer > 0, true);
    const cases: [Parameters<Client["spawn"]>[0], string, string][] = [
      [{ command: ["no-such-command"] }, "command", "ENOENT"],
      [{ command: ["/no/such/command"] }, "command", "ENOENT"],
      [{ command: [file("plain", "text", 0o644)] }, "command", "EACCES"],
      [{ command: [scene.folder] }, "command", "EACCES"],
      [{ command: ["true"], cwd: "/no/such/folder" }, "cwd", "ENOENT"],
      [{ command: ["true"], cwd: file("file", "", 0o644) }, "cwd", "ENOTDIR"],
      [{ command: [file("script", "#!/no/such/interpreter\n", 0o755)] }, "interpreter", "ENOENT"],
      [{ command: ["true", "x".repeat(200_000)] }, "exec", "E2BIG"],
      [{ command: ["true"], env: { PATH: "/bin", BIG: "x".repeat(200_000) } }, "exec", "E2BIG"],
    ];
    // Behind the gate of a cgroup only exec itself can find this out: told afterwards, see below.
    if (containment === "group") cases.push([{ command: [busy] }, "exec", "ETXTBSY"]);
    for (const [params, stage, errno] of cases) {
      const { kind, facts, message } = await refusedSpawn(client, params);
      equal([kind, facts["stage"], facts["errno"]], ["spawn_failed", stage, errno], message);
      const process = await client.status({ id: String(facts["id"]) });
      equal([process.status, process.pid, process.startedAt], ["failed", null, null]);
      equal(process.failure, { stage, errno });
    }
  });

if (containments.includes("cgroup")) {
  scenario("what the gate of a cgroup cannot become is told as failed", async (scene) => {
    const args = ["--containment", "cgroup"];
    const client = await (await startDaemon(scene, { args })).connect();
    const busy = join(scene.folder, "busy");
    copyFileSync("/bin/true", busy);
    chmodSync(busy, 0o755);
    const writer = openSync(busy, "r+");
    const { id, pid } = await client.spawn({ command: [busy] });
    const { ended, process } = await client.wait({ id });
    closeSync(writer);
    equal(
      { ended, status: process.status, failure: process.failure, pid: process.pid },
      { ended: true, status: "failed", failure: { stage: "exec", errno: "EUNKNOWN" }, pid },
    );
    // The same codes of a command that did run are its own.
    for (const code of [125, 126, 127]) {
      const own = await client.spawn({ command: ["sh", "-c", `exit ${code}`] });
      const over = (await client.wait({ id: own.id })).process;
      equal([over.status, over.exitCode, over.failure], ["exited", code, null]);
    }
  });
}

scenario("a command that cannot be put into its cgroup is never started", (scene) => {
  const file = join(scene.folder, "ran");
  const touch = { path: "/usr/bin/touch", argv: ["touch", file], env: [], cwd: "/", stdio: [] };
  const { path, argv } = enterCgroup(join(scene.folder, "none", "cgroup.procs"), touch);
  is(spawnSync(path, argv.slice(1), { argv0: argv[0] ?? "" }).status, 125);
  is(existsSync(file), false);
});

const asRootOfNobody = ["unshare", "-Ur"];
const noUserSpace = whyNot([...asRootOfNobody, "true"]);
const CANNOT_BECOME = "a root who cannot become others says so, and keeps nothing";

if (noUserSpace !== null) skipped(CANNOT_BECOME, noUserSpace);
else {
  scenario(CANNOT_BECOME, async (scene) => {
    // Root of a user's namespace may not change its groups. man 7 user_namespaces.
    const args = ["--containment", "group"];
    const client = await (await startDaemon(scene, { prefix: asRootOfNobody, args })).connect();
    const command = ["true"];
    for (const _ of ["the first", "another of that name"]) {
      const { kind, facts } = await refusedSpawn(client, { command, user: "nobody", name: "one" });
      equal([kind, facts["stage"], facts["errno"]], ["spawn_failed", "exec", "EPERM"]);
      is((await client.status({ name: "one" })).status, "failed");
    }
  });
}
