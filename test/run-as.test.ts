// As whom commands run, with real users: as their callers and as nothing more, whatever the daemon may do.

import { spawn } from "node:child_process";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import type { Process } from "../client/wire.js";
import { containments } from "./cage.js";
import { groupOf, outcome, output, overLines, people, startForAll } from "./people.js";
import { scenario, skipped } from "./scenario.js";

if (process.getuid?.() !== 0) {
  skipped("a command runs as its caller", "needs root, to call as other users");
} else {
  for (const containment of containments) play(containment);

  scenario("a lease on a caller's own command holds up nobody else", async (scene) => {
    const daemon = await startForAll(scene, "group");
    const command = join(scene.folder, "leased.sh");
    writeFileSync(command, "#!/bin/sh\n", { mode: 0o755 });
    chownSync(command, Number(output(["id", "-u", people.owner])), 0);
    // F_SETLEASE, F_WRLCK: whoever opens the file waits up to 45 s for its holder. man 2 fcntl.
    const lease =
      '$SIG{IO} = "IGNORE"; open(F, "+<", $ARGV[0]); fcntl(F, 1024, 1) or die; $| = 1; print "held"; sleep';
    const holder = spawn("setpriv", [
      "--reuid",
      people.owner,
      "--clear-groups",
      "perl",
      "-e",
      lease,
      command,
    ]);
    scene.after(() => void holder.kill("SIGKILL"));
    await new Promise((held) => holder.stdout.once("data", held));
    const owner = await overLines(scene, daemon, "owner");
    const { result } = await owner.ask("spawn", { command: [command] });
    const member = await overLines(scene, daemon, "member");
    is(outcome(await member.ask("list")), "done");
    is(outcome(await owner.ask("terminate", { id: result?.["id"], force: true })), "done");
  });
}

function play(containment: string): void {
  scenario(`${containment}: a command runs as its caller, and as nothing more`, async (scene) => {
    const daemon = await startForAll(scene, containment);
    const owner = await overLines(scene, daemon, "owner");
    const run = async (command: string[], more: object = {}) => {
      const { result, error } = await owner.ask("spawn", { command, ...more });
      if (error !== undefined) throw new Error(error.message);
      const { id } = result as { id: string };
      await owner.ask("wait", { id });
      return String((await owner.ask("logs", { id })).result?.["text"]);
    };
    const id = ["id"];
    const plain = ["setpriv", "--reuid=daemon", `--regid=${groupOf("daemon")}`, "--init-groups"];
    is(await run(id), output([...plain, ...id]));
    const status = await run(["cat", "/proc/self/status"]);
    for (const field of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) {
      match(status, new RegExp(`^${field}:\\t0+$`, "m"));
    }
    match(status, /^NoNewPrivs:\t1$/m);
    const environment = (await run(["env"]))
      .split("\n")
      .filter((line) => !line.startsWith("PROCSUP_"));
    equal(environment.filter(Boolean).sort(), [
      "HOME=/usr/sbin",
      "LOGNAME=daemon",
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      "SHELL=/usr/sbin/nologin",
      "USER=daemon",
    ]);
    const odd = {
      "a-b": "x'y",
      LD_X: "1",
      Q: 'it\'s\n"é€😀" $HOME `id`',
      IFS: "_",
      PATH: "/usr/bin:/bin",
    };
    const given = (await run(["env", "-0"], { env: odd })).split("\0");
    equal(
      given.filter((one) => one !== "" && !one.startsWith("PROCSUP_")).sort(),
      Object.entries(odd)
        .map(([key, value]) => `${key}=${value}`)
        .sort(),
    );
    const limits = await run(["cat", "/proc/self/limits"]);
    match(limits, /^Max open files +1024 /m);
    is(await run(["sh", "-c", "umask; pwd"]), "0022\n/\n");
    is(await run(["sh", "-c", "echo again >/dev/stdout"]), "again\n");
    is(
      await run(["sh", "-c", "echo /proc/self/fd/*"]),
      "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n",
    );
  });

  scenario(`${containment}: what cannot become its caller's command says so`, async (scene) => {
    const daemon = await startForAll(scene, containment);
    const owner = await overLines(scene, daemon, "owner");
    const foreign = join(scene.folder, "foreign");
    writeFileSync(foreign, "\x7fELF\0", { mode: 0o755 });
    const { result } = await owner.ask("spawn", { command: [foreign] });
    const id = result?.["id"];
    const ended = (await owner.ask("wait", { id })).result?.["process"] as Process;
    equal(ended.failure, { stage: "exec", errno: "EUNKNOWN" });
    const words = (await owner.ask("logs", { id, stream: "stderr" })).result?.["text"];
    match(String(words), /^procsup: .*\/foreign: ./);
  });

  scenario(`${containment}: a caller gains nothing by what the daemon may do`, async (scene) => {
    const daemon = await startForAll(scene, containment);
    const owner = await overLines(scene, daemon, "owner");
    const closed = join(scene.folder, "closed");
    mkdirSync(closed, { mode: 0o700 });
    writeFileSync(join(closed, "secret.sh"), "#!/bin/sh\necho secret\n", { mode: 0o755 });
    const refusedWith = async (command: string[], more: object) => {
      const { error } = await owner.ask("spawn", { command, ...more });
      return [error?.data?.["stage"], error?.data?.["errno"]];
    };
    equal(await refusedWith(["true"], { cwd: closed }), ["cwd", "EACCES"]);
    equal(await refusedWith(["secret.sh"], { env: { PATH: closed } }), ["command", "EACCES"]);
    equal(await refusedWith([join(closed, "secret.sh")], {}), ["command", "EACCES"]);

    // A loader that obeyed in a shell of root would write as root.
    const open = join(scene.folder, "open");
    mkdirSync(open);
    chmodSync(open, 0o777);
    const env = { LD_DEBUG: "libs", LD_DEBUG_OUTPUT: join(open, "ld"), PATH: "/usr/bin:/bin" };
    const { result } = await owner.ask("spawn", { command: ["true"], env });
    await owner.ask("wait", { id: result?.["id"] });
    const writers = new Set(readdirSync(open).map((name) => statSync(join(open, name)).uid));
    equal([...writers], [1]);

    const setuid = join(scene.folder, "setuid-id");
    copyFileSync("/usr/bin/id", setuid);
    chmodSync(setuid, 0o4755);
    const spawned = await owner.ask("spawn", { command: [setuid, "-u"] });
    const { id } = spawned.result as { id: string };
    await owner.ask("wait", { id });
    is((await owner.ask("logs", { id })).result?.["text"], "1\n");
    const files = readdirSync(join(daemon.state, "output")).map((name) =>
      join(daemon.state, "output", name),
    );
    ok(files.length > 0);
    for (const file of files) equal([statSync(file).uid, statSync(file).mode & 0o777], [1, 0o600]);
  });
}
