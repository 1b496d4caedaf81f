// What a command begins with and without: nothing of the daemon's, and what execvp would give it.

import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is } from "uvu/assert";
import { containments } from "./cage.js";
import { outputOf } from "./commands.js";
import { startDaemon, theDaemonGoes, visitDaemon } from "./daemon.js";
import { scenario, until } from "./scenario.js";

scenario("what the daemon inherited does not reach a command", async (scene) => {
  // Node itself closes the first sixteen descriptors.
  const script = 'umask 077; exec 77</etc/hostname; exec "$@"';
  const client = await (
    await startDaemon(scene, { prefix: ["bash", "-c", script, "bash"] })
  ).connect();
  const command = ["sh", "-c", "umask; ls /proc/$$/fd; cat /proc/self/status"];
  const [umask, ...rest] = (await outputOf(client, { command })).split("\n");
  equal([umask, rest.slice(0, 3)], ["0022", ["0", "1", "2"]]);
  // glibc's posix_spawn leaves its own two signals, 32 and 33, ignored.
  const usual = 0x7fff_ffffn;
  for (const field of ["SigBlk", "SigIgn"]) {
    const mask = rest.find((line) => line.startsWith(field))?.split("\t")[1];
    is(BigInt(`0x${mask}`) & usual, 0n, field);
  }
});

for (const containment of containments) {
  scenario(`${containment}: a command is looked for as execvp does`, async (scene) => {
    const args = ["--containment", containment];
    const client = await (await startDaemon(scene, { args })).connect();
    // In the command's own PATH, relative to its folder, and by a shell where there is no #!.
    writeFileSync(join(scene.folder, "plain"), 'echo "plain $1"\n', { mode: 0o755 });
    const env = { PATH: `${scene.folder}:/usr/bin:/bin` };
    is(await outputOf(client, { command: ["plain", "x"], env, cwd: "/" }), "plain x\n");
    is(await outputOf(client, { command: ["./plain", "y"], cwd: scene.folder }), "plain y\n");
  });
}

scenario("a process that spawns another hands it no mark of its own", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const marks = { PROCSUP_ID: "p000000000000", PROCSUP_SOCKET: "/elsewhere", PROCSUP_NAME: "x" };
  const env = { PATH: "/bin:/usr/bin", ...marks };
  const { id } = await client.spawn({ command: ["env"], env, name: "y" });
  await client.wait({ id });
  const lines = (await client.logs({ id })).text
    .split("\n")
    .filter((line) => /^PROCSUP/.test(line));
  const own = [`PROCSUP_ID=${id}`, "PROCSUP_NAME=y", `PROCSUP_SOCKET=${daemon.socket}`];
  equal(lines.sort(), own.sort());
});

scenario("a program's name with parentheses and spaces misleads nobody", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const file = join(scene.folder, "a) Z 1 (b");
  copyFileSync("/bin/sleep", file);
  const { id, pid } = await client.spawn({ command: [file, "1000"] });
  const comm = () => readFileSync(`/proc/${pid}/comm`, "utf8");
  await until("it has begun", () => comm() === "a) Z 1 (b\n");
  // It may wait for its disk first.
  await until("it sleeps, and is told of as such", async () => {
    const { members } = await client.status({ id });
    equal(
      members.map((one) => one.pid),
      [pid],
    );
    return members[0]?.state === "S";
  });
});

scenario("an end by a signal that has no name on the wire is unknown", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id } = await client.spawn({ command: ["sh", "-c", "kill -34 $$"] });
  const { process } = await client.wait({ id });
  const { status, exit, exitCode, signal } = process;
  equal([status, exit, exitCode, signal], ["exited", "unknown", null, null]);
});

theDaemonGoes();
