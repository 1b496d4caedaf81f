// `procsup run`: a command in the foreground, its output, its end, and whoever interrupts it.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match } from "uvu/assert";
import { cliFile, type Desk, documentOf, runCli, setUp } from "./cli.js";
import { testProgram } from "./commands.js";
import { crash, theDaemonGoes } from "./daemon.js";
import {
  bearers,
  isAlive,
  type Scene,
  scenario,
  scenarioUnless,
  until,
  whyNot,
} from "./scenario.js";

/** Runs `command` until it says that it is ready; its pid, and those of all living members. */
async function runUntilReady(scene: Scene, { client, env }: Desk, command: string[]) {
  const options = ["--name", "it", "--grace", "1h"];
  const foreground = runCli(scene, ["run", ...options, ...command], { env });
  await until("it is ready", () => foreground.soFar.out.startsWith("ready\n"));
  const { pid, members } = await client.status({ name: "it" });
  return { ...foreground, pid: pid ?? 0, pids: members.map((member) => member.pid) };
}

scenario(
  "run prints both streams as they are, and exits with the command's code",
  async (scene) => {
    const { cli } = await setUp(scene);
    const script = 'cat; seq 1 20000; echo "$1" >&2; exit 3';
    const said = await cli("run", "sh", "-c", script, "sh", "--json");
    const lines = Array.from({ length: 20_000 }, (_, at) => `${at + 1}\n`);
    equal(said, { code: 3, out: lines.join(""), err: "--json\n" });
  },
);

scenario("run exits as the shell does for signals and for what cannot be run", async (scene) => {
  const { cli, client } = await setUp(scene);
  is((await cli("run", "sh", "-c", "kill -USR1 $$")).code, 128 + 10);
  const missing = await cli("run", "/no/such");
  equal([missing.code, missing.out], [127, ""]);
  match(missing.err, /no\/such/);
  is((await cli("run", "/etc/passwd")).code, 126);
  equal((await client.list({})).processes, []);
});

scenario("run --json prints one document, of the process and of what it wrote", async (scene) => {
  const { cli } = await setUp(scene);
  const said = await cli("run", "--json", "sh", "-c", "echo out; echo err >&2; exit 5");
  equal([said.code, said.err], [5, ""]);
  const { process, output } = documentOf(said) as Record<string, Record<string, unknown>>;
  equal([process?.["status"], process?.["exitCode"]], ["exited", 5]);
  const texts = Object.entries(output ?? {}).map(([name, read]) => [name, Object(read).text]);
  equal(texts, [
    ["stdout", "out\n"],
    ["stderr", "err\n"],
  ]);
});

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  scenario(`run ends the whole tree at ${signal}, which has its grace`, async (scene) => {
    const file = join(scene.folder, "work");
    const command = testProgram("slow-handler.sh", file);
    const { child, said, pids } = await runUntilReady(scene, await setUp(scene), command);
    child.kill(signal);
    const { code, out } = await said;
    equal([code, out], [3, "ready\n"]);
    is(readFileSync(file, "utf8"), "finished\n");
    equal(pids.filter(isAlive), []);
  });
}

scenario("run ends its tree when nobody reads what it prints any more", async (scene) => {
  const script = "echo ready; while :; do echo more; sleep 0.1; done";
  const foreground = await runUntilReady(scene, await setUp(scene), ["sh", "-c", script]);
  foreground.child.stdout?.destroy();
  is((await foreground.said).code, 128 + 13);
  equal(foreground.pids.filter(isAlive), []);
});

scenario("run interrupted twice ends its tree by force", async (scene) => {
  const desk = await setUp(scene);
  const command = testProgram("counts-term.sh", join(scene.folder, "terms"));
  const { child, said, pids } = await runUntilReady(scene, desk, command);
  child.kill("SIGINT");
  await until("it is asked to end", () => {
    return readFileSync(join(scene.folder, "terms"), { flag: "a+" }).length > 0;
  });
  child.kill("SIGINT");
  is((await said).code, 128 + 9);
  equal(pids.filter(isAlive), []);
});

const noScript = whyNot(["script", "--version"]);

scenarioUnless(
  noScript,
  "run ends its tree, and quietly, when its terminal goes",
  async (scene) => {
    const { client, env } = await setUp(scene);
    const errors = join(scene.folder, "errors");
    const run = `exec ${process.execPath} ${cliFile} run --name it sleep 1000 2>${errors}`;
    const terminal = spawn("script", ["-qc", run, "/dev/null"], {
      env: { PATH: process.env["PATH"], SHELL: "/bin/sh", ...env },
      stdio: ["pipe", "ignore", "inherit"],
    });
    const isIt = (one: number) =>
      readFileSync(`/proc/${one}/cmdline`, "utf8").includes("\0--name\0");
    const [pid = 0] = await until("it runs", async () => {
      const { processes } = await client.list({});
      return (
        processes.length > 0 && bearers(`PROCSUP_SOCKET=${env["PROCSUP_SOCKET"]}`).filter(isIt)
      );
    });
    terminal.kill("SIGKILL");
    await until("the command is gone", () => !isAlive(pid));
    equal([(await client.list({})).processes, readFileSync(errors, "utf8")], [[], ""]);
  },
);

scenario("run leaves at the third interruption, also when nobody answers", async (scene) => {
  const desk = await setUp(scene, {});
  const { child, pid } = await runUntilReady(scene, desk, testProgram("ignores-term.sh"));
  const { daemon } = desk;
  daemon.child.kill("SIGSTOP");
  scene.after(() => void daemon.child.kill("SIGCONT"));
  const left = new Promise((done) => child.once("exit", (_, signal) => done(signal)));
  // Two at once may come as one.
  const again = setInterval(() => child.kill("SIGINT"), 50);
  scene.after(() => clearInterval(again));
  is(await left, "SIGINT");
  process.kill(-pid, "SIGKILL");
});

scenario("whoever follows a command to the end of its daemon hears all of it", async (scene) => {
  const desk = await setUp(scene, {});
  const script = 'trap "seq 1 20000; exit 7" TERM; echo ready; while :; do sleep 0.1; done';
  const { said } = await runUntilReady(scene, desk, ["sh", "-c", script]);
  const follower = runCli(scene, ["logs", "-f", "it", "--stream", "stdout"], { env: desk.env });
  await until("it is followed", () => follower.soFar.out === "ready\n");
  desk.daemon.child.kill("SIGTERM");
  const lines = Array.from({ length: 20_000 }, (_, at) => `${at + 1}\n`);
  const out = `ready\n${lines.join("")}`;
  const { code, out: printed } = await said;
  equal([code, printed === out], [7, true]);
  equal(await follower.said, { code: 0, out, err: "" });
});

scenario("run says that its daemon is gone, and the command runs on", async (scene) => {
  const desk = await setUp(scene, {});
  const { said, pid } = await runUntilReady(scene, desk, testProgram("ignores-term.sh"));
  await crash(desk.daemon);
  const { code, err } = await said;
  equal([code, err], [125, "procsup: the daemon closed the connection\n"]);
  is(isAlive(pid), true);
  process.kill(-pid, "SIGKILL");
});

theDaemonGoes();
