// What can be wrong with a command before it runs: named at once where it can be, else just afterwards.

import { spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import type { Client } from "../client/client.js";
import { Refusal } from "../client/wire.js";
import { enterCgroup } from "../daemon/tree/gate.js";
import { containments } from "./cage.js";
import { startDaemon } from "./daemon.js";
import { scenario, scenarioUnless, whyNot } from "./scenario.js";

async function refusedSpawn(client: Client, params: Parameters<Client["spawn"]>[0]) {
  try {
    await client.spawn(params);
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
  throw new Error("expected a refusal");
}

/** Begins as a program does, and holds what a shell would take for a command. */
const foreign = "\x7fELF\0;\necho run by a shell\n";

/** What a shell that cannot become a command says, after its name. */
const sayingWhy = /^procsup: .*\/(busy|foreign): ./;

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
      [{ command: ["."] }, "command", "EACCES"],
      [{ command: [`${file("fine", "#!/bin/sh\n", 0o755)}/`] }, "command", "ENOTDIR"],
      [{ command: [`/${"x".repeat(300)}`] }, "command", "ENAMETOOLONG"],
      [{ command: ["true"], cwd: "/no/such/folder" }, "cwd", "ENOENT"],
      [{ command: ["true"], cwd: file("file", "", 0o644) }, "cwd", "ENOTDIR"],
      [{ command: [file("script", "#!/no/such/interpreter\n", 0o755)] }, "interpreter", "ENOENT"],
      [{ command: [file("folder", "#!/tmp\n", 0o755)] }, "interpreter", "EACCES"],
      [{ command: [file("closed", `#!${scene.folder}/plain\n`, 0o755)] }, "interpreter", "EACCES"],
      [{ command: [file("bare", "#!", 0o755)] }, "interpreter", "EACCES"],
      [{ command: [file("self", `#!${scene.folder}/self\n`, 0o755)] }, "interpreter", "ELOOP"],
      [{ command: ["true", "x".repeat(200_000)] }, "exec", "E2BIG"],
      [{ command: ["true"], env: { PATH: "/bin", BIG: "x".repeat(200_000) } }, "exec", "E2BIG"],
    ];
    // Behind the gate of a cgroup only exec itself can find these out: told afterwards, see below.
    if (containment === "group") {
      cases.push([{ command: [busy] }, "exec", "ETXTBSY"]);
      cases.push([{ command: [file("foreign", foreign, 0o755)] }, "exec", "ENOEXEC"]);
    }
    for (const [params, stage, errno] of cases) {
      const { kind, facts, message } = await refusedSpawn(client, params);
      equal([kind, facts["stage"], facts["errno"]], ["spawn_failed", stage, errno], message);
      const process = await client.status({ id: String(facts["id"]) });
      equal([process.status, process.pid, process.startedAt], ["failed", null, null]);
      equal(process.failure, { stage, errno });
      ok(message.startsWith(`${errno}: `) && !/EACCES.*not (found|exist)/.test(message), message);
    }
  });

const isTaken = "a command is found where the kernel finds it, however it is named";

for (const containment of containments)
  scenario(`${containment}: ${isTaken}`, async (scene) => {
    const args = ["--containment", containment];
    const client = await (await startDaemon(scene, { args })).connect();
    const { folder } = scene;
    const file = (name: string, interpreter: string) =>
      writeFileSync(join(folder, name), `#!${interpreter}\necho "$0" "$@"\n`, { mode: 0o755 });
    mkdirSync(join(folder, "far/off"), { recursive: true });
    symlinkSync(join(folder, "far/off"), join(folder, "link"));
    file("far/beside", "/bin/sh");
    file("jörg", "/bin/sh");
    symlinkSync("/bin/sh", join(folder, "größe"));
    file("umlaut", `${folder}/größe`);
    file("nothing", " ");
    // The kernel goes through five interpreters, no more.
    file("1", "/bin/sh");
    for (const count of [2, 3, 4, 5]) file(`${count}`, `${folder}/${count - 1}`);
    const cases: [string, string][] = [
      ["link/../beside", "link/../beside\n"],
      ["./jörg", "./jörg\n"],
      ["./umlaut", "./umlaut\n"],
      ["./nothing", "./nothing\n"],
      ["umlaut", "umlaut\n"],
      ["./5", `${[1, 2, 3, 4].map((count) => join(folder, `${count}`)).join(" ")} ./5\n`],
    ];
    for (const [command, said] of cases) {
      const env = { PATH: ":/bin:/usr/bin" };
      const { id } = await client.spawn({ command: [command], cwd: folder, env });
      equal([(await client.wait({ id })).process.exitCode, command], [0, command]);
      is((await client.logs({ id })).text, said);
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
    scene.after(() => closeSync(writer));
    const odd = join(scene.folder, "foreign");
    writeFileSync(odd, foreign, { mode: 0o755 });
    for (const command of [busy, odd]) {
      const { id, pid } = await client.spawn({ command: [command] });
      const { ended, process } = await client.wait({ id });
      equal(
        { ended, status: process.status, failure: process.failure, pid: process.pid },
        { ended: true, status: "failed", failure: { stage: "exec", errno: "EUNKNOWN" }, pid },
      );
      match((await client.logs({ id, stream: "stderr" })).text, sayingWhy);
    }
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

scenarioUnless(noUserSpace, CANNOT_BECOME, async (scene) => {
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
