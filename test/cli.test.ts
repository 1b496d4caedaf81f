// The commands of the CLI, one by one, as they ship.

import { execFileSync, spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import type { Process, Refusal } from "../client/client.js";
import { isPaused } from "./cage.js";
import { cliFile, documentOf, listenTo, setUp, sleep } from "./cli.js";
import { spawnReady, testProgram } from "./commands.js";
import { crash, startDaemon, theDaemonGoes } from "./daemon.js";
import { isAlive, type Scene, scenario, scenarioUnless, unlessRoot, until } from "./scenario.js";

function spawnIn({ folder, after }: Scene, [file = "", ...args]: string[], env: NodeJS.ProcessEnv) {
  const child = spawn(file, args, {
    cwd: folder,
    env: { PATH: process.env["PATH"], ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  after(() => void child.kill("SIGKILL"));
  return child;
}

const words = (text: string) => text.split(" ").filter((word) => word !== "");

// --- start ----------------------------------------------------------------------------------

scenario("start prints the pid and nothing else", async (scene) => {
  const { cli, client } = await setUp(scene);
  const said = await cli("start", ...sleep);
  equal([said.code, said.err], [0, ""]);
  match(said.out, /^[0-9]+\n$/);
  equal((await client.status({ pid: Number(said.out) })).command, sleep);
  is(isAlive(Number(said.out)), true);
});

scenario("start runs a command where and as its caller stands", async (scene) => {
  const { cli, client } = await setUp(scene);
  const pid = Number((await cli("start", "sh", "-c", 'echo "$PWD $MARK"')).out);
  await client.wait({ pid });
  is((await client.logs({ pid })).text, `${scene.folder} of the caller\n`);
});

scenario("start passes its options on", async (scene) => {
  const { cli, client } = await setUp(scene);
  execFileSync("mkdir", [join(scene.folder, "sub")]);
  const { username } = userInfo();
  const options = words("-n web --cwd sub -e A=1 --env B=x=y --clear-env --stop-signal usr1");
  const more = words(`--grace 1.5s --output merged --strays keep --user ${username} --json`);
  const script = "pwd; env; echo oops >&2; sleep 1000 & exit 5";
  const said = await cli("start", ...options, ...more, "sh", "-c", script);
  const { id, name, cwd, stopSignal, graceMs, user, command } = documentOf(said) as Process;
  equal([said.code, said.err, command], [0, "", ["sh", "-c", script]]);
  equal([name, stopSignal, graceMs, user], ["web", "SIGUSR1", 1500, username]);
  is(cwd, join(scene.folder, "sub"));
  const now = await until("the leader has ended", async () => {
    const status = await client.status({ id });
    return status.exitCode === 5 && status;
  });
  equal([now.status, now.members.length], ["running", 1]);
  const lines = (await client.logs({ id })).text.trim().split("\n");
  equal([lines[0], lines.at(-1)], [cwd, "oops"]);
  const names = lines.slice(1, -1).map((line) => line.slice(0, line.indexOf("=")));
  const own = names.filter((each) => !["PWD", "OLDPWD", "SHLVL", "_"].includes(each)).sort();
  is(own.join(" "), "A B PROCSUP_ID PROCSUP_NAME PROCSUP_SOCKET");
  ok(lines.includes("B=x=y"));
});

scenario("start says no to what it cannot say to the daemon", async (scene) => {
  const { client, env } = await setUp(scene, {});
  const odd = "\\351";
  const script = `exec "$1" "$2" start -- touch "$(printf '${odd}')"`;
  const argv = ["sh", "-c", script, "sh", process.execPath, cliFile];
  const { said } = listenTo(spawnIn(scene, argv, env));
  const { code, err } = await said;
  equal([code, (await client.list({ all: true })).processes], [125, []]);
  match(err, /command: it holds bytes that are no UTF-8/);
});

scenario("whoever is named twice is ended once", async (scene) => {
  const { cli, client } = await setUp(scene);
  const { pid } = await client.spawn({ command: sleep, name: "web" });
  const said = await cli("terminate", "web", "web");
  equal([said.code, said.err, isAlive(pid ?? 0)], [0, "", false]);
  match(said.out, /^Process terminated successfully: .*\n$/);
});

const asOther = "start as another user hands on nothing but what is said";
scenarioUnless(unlessRoot("to run as somebody else"), asOther, async (scene) => {
  const { cli, client } = await setUp(scene);
  const tell = ["sh", "-c", 'echo "$USER $HOME $PWD $MARK $PATH"'];
  const said = async (...options: string[]) => {
    const pid = Number((await cli("start", "--user", "nobody", ...options, ...tell)).out);
    await client.wait({ pid });
    return (await client.logs({ pid })).text.split(" ").slice(0, 4);
  };
  equal(await said(), ["nobody", "/nonexistent", "/", ""]);
  equal(await said("--cwd", "/usr", "-e", "MARK=x"), ["", "", "/usr", "x"]);
});

scenario("start leaves the command's own flags alone", async (scene) => {
  const { cli, client } = await setUp(scene);
  const cases = [
    ["", "echo -n --json --name=x -- -e"],
    ["-n x --", "echo --grace 1 -- more --help"],
    ["--strays end", "echo --version"],
  ];
  for (const [before, command] of cases.map((parts) => parts.map(words))) {
    const { code, out } = await cli("start", ...(before ?? []), ...(command ?? []));
    is(code, 0);
    equal((await client.status({ pid: Number(out) })).command, command);
  }
});

scenario("start fails with the codes that env(1) has", async (scene) => {
  const { cli } = await setUp(scene);
  const script = join(scene.folder, "script");
  writeFileSync(script, "#!/no/such/interpreter\n", { mode: 0o755 });
  await cli("start", "-n", "web", ...sleep);
  const cases: [number, RegExp, string[]][] = [
    [127, /command not found: no-such-command/, ["no-such-command"]],
    [126, /not an executable file/, testProgram("../daemon.ts")],
    [126, /interpreter/, [script]],
    [125, /working directory \/no\/such/, ["--cwd", "/no/such", "true"]],
    [125, /Name taken: web/, ["-n", "web", "true"]],
    [125, /name: must start with a letter/, ["-n", "1web", "true"]],
    [125, /none: it does not exist/, ["--socket", join(scene.folder, "none"), "true"]],
  ];
  for (const [code, pattern, args] of cases) {
    const said = await cli("start", ...args);
    equal([said.code, said.out], [code, ""], said.err);
    match(said.err, pattern);
    match(said.err, /^procsup: [^\n]+\n$/);
  }
});

// --- looking --------------------------------------------------------------------------------

scenario("list shows the living, and with --all or --status others", async (scene) => {
  const { cli, client } = await setUp(scene, {});
  const one = await client.spawn({ command: sleep, name: "web" });
  const two = await client.spawn({ command: ["true"] });
  await client.wait({ id: two.id });
  const [ls, all, exited, ids, none] = await Promise.all([
    cli("ls"),
    cli("list", "--all"),
    cli("list", "--status", "exited"),
    cli("list", "-aq"),
    cli("list", "-q", "--status", "failed"),
  ]);
  const [head, row, ...more] = ls?.out.split("\n") ?? [];
  match(head ?? "", /^PID +ID +NAME +STATUS +EXIT +STARTED +COMMAND$/);
  match(row ?? "", new RegExp(`^${one.pid} +${one.id} +web +running +- +\\d+ s +sleep 1000$`));
  equal(more, [""]);
  is(all?.out.split("\n").length, 4);
  match(exited?.out ?? "", new RegExp(`\n${two.pid} +${two.id} +- +exited +0 +\\d+ s +true\n$`));
  is(ids?.out, `${one.id}\n${two.id}\n`);
  equal(none, { code: 0, out: "", err: "" });
});

scenario("no control character of a command reaches the terminal", async (scene) => {
  const { cli, client } = await setUp(scene);
  const evil = "sleep 1000 # \u001b[31m\u009b2J\u202e\r\nPID  ID  forged";
  const { id } = await client.spawn({ command: ["sh", "-c", evil], name: "evil" });
  await client.spawn({ command: ["sh", "-c", `exec ${evil}`] });
  const control = /[\p{Cc}\u202e]/u;
  const table = await cli("list");
  const status = await cli("status", id);
  const error = await cli("start", "\u001b[31m");
  for (const { out, err } of [table, status, error]) {
    for (const line of `${out}${err}`.split("\n")) is(control.test(line), false, line);
  }
  is(table.out.split("\n").length, 4);
  match(error.err, /command not found: \?\[31m\n/);
});

scenario("status addresses by pid, name, id and beginning of an id", async (scene) => {
  const { cli, client } = await setUp(scene);
  const { id, pid } = await client.spawn({ command: sleep, name: "web" });
  const targets = [String(pid), "web", id, id.slice(0, 6), id.slice(0, 12)];
  for (const said of await Promise.all(targets.map((target) => cli("status", target)))) {
    equal([said.code, said.err], [0, ""]);
    match(said.out, new RegExp(`^id +${id}\nname +web\npid +${pid}\nstatus +running\ncommand`));
    match(said.out, new RegExp(`\nPID +PPID +STATE +COMMAND\n${pid} +\\d+ +S +sleep 1000\n$`));
  }
});

scenario("only who looks may shorten an id, and a name goes before", async (scene) => {
  const { cli, client } = await setUp(scene);
  const first = await client.spawn({ command: sleep });
  const prefix = first.id.slice(0, 4);
  const before = await Promise.all(["terminate", "kill", "pause"].map((verb) => cli(verb, prefix)));
  for (const { code, err } of before) {
    is(code, 4);
    match(err, new RegExp(`^procsup: Process not found: name ${prefix}; if an id is meant`));
  }
  is((await cli("wait", "--timeout", "0", prefix)).code, 124);
  const second = await client.spawn({ command: sleep, name: prefix });
  is(documentOf(await cli("status", "--json", prefix))["id"], second.id);
  await client.terminate({ id: second.id });
  const same = await cli("status", prefix);
  equal([same.code, same.out.includes(second.id)], [3, true]);
});

scenario("status exits with 3 for an ended process, 4 for an unknown one", async (scene) => {
  const { cli, client } = await setUp(scene);
  const { id } = await client.spawn({ command: ["true"] });
  await client.wait({ id });
  const ended = await cli("status", id);
  equal([ended.code, ended.err], [3, ""]);
  match(ended.out, /\nstatus +exited\n/);
  const other = `${id.slice(0, 11)}${id[11] === "0" ? "1" : "0"}`;
  const cases = [
    ["name", "nobody"],
    ["ID", `${other}0`],
    ["PID", "2147483647"],
  ];
  for (const [kind, target = ""] of cases) {
    const err = `procsup: Process not found: ${kind} ${target}\n`;
    equal(await cli("status", target), { code: 4, out: "", err });
  }
  const none = `procsup: Process not found: nobody is named ${other}, and no id begins so\n`;
  equal(await cli("status", other), { code: 4, out: "", err: none });
  const hint = "if an id is meant, its beginning is not enough";
  const acting = `procsup: Process not found: name ${other}; ${hint}\n`;
  equal(await cli("terminate", other), { code: 4, out: "", err: acting });
});

scenario("usage and info are tables for people", async (scene) => {
  const { cli, client, daemon } = await setUp(scene);
  const { id, pid } = await client.spawn({ command: sleep });
  const [usage, info] = await Promise.all([cli("usage", id, "nobody"), cli("info")]);
  equal([usage?.code, usage?.err], [4, "procsup: Process not found: name nobody\n"]);
  const row = `${pid} +${id} +\\d+\\.\\d +\\d+\\.\\d MiB +\\d+\\.\\d +\\d+\\.\\d MiB +1`;
  const head = "PID +ID +CPU % +RSS +TREE CPU % +TREE RSS +MEMBERS";
  match(usage?.out ?? "", new RegExp(`^${head}\n${row}\n$`));
  equal([info?.code, info?.err], [0, ""]);
  match(info?.out ?? "", new RegExp(`\npid +${daemon.pid}\n`));
  match(info?.out ?? "", /\nprocesses\n {2}starting +0\n {2}running +1\n/);
});

// --- ending and signalling ------------------------------------------------------------------

scenario("several targets each have their line, and the first failure its code", async (scene) => {
  const { cli, client } = await setUp(scene);
  const spawned = await Promise.all([1, 2, 3].map(() => client.spawn({ command: sleep })));
  const [one = "", two = "", three = ""] = spawned.map(({ id }) => id);
  const pids = spawned.map(({ pid }) => pid);
  await client.terminate({ id: three });
  const said = await cli("terminate", one, "nobody", three, two);
  const done = (pid: unknown) =>
    `Process terminated successfully: PID ${pid} \\(1 member, gracefully, \\d+ ms\\)\n`;
  match(said.out, new RegExp(`^${done(pids[0])}${done(pids[1])}$`));
  equal(said.err.split("\n"), [
    "procsup: Process not found: name nobody",
    `procsup: Process already terminated: PID ${pids[2]}`,
    "",
  ]);
  is(said.code, 4);
  is((await cli("stop", one)).code, 7);
  const all = await cli("terminate", "--json", one, "nobody");
  const documents = JSON.parse(all.out) as { error: { kind: string } }[];
  equal(
    documents.map(({ error }) => error.kind),
    ["already_terminated", "process_not_found"],
  );
  equal([all.code, all.err], [7, ""]);
});

scenario("terminate takes --grace, --force and --no-wait, kill needs none", async (scene) => {
  const { cli, client } = await setUp(scene);
  const stubborn = () => spawnReady(client, testProgram("ignores-term.sh"), { graceMs: 60_000 });
  const forced = await Promise.all([
    cli("terminate", "--grace", "50ms", (await stubborn()).id),
    cli("stop", (await stubborn()).id, "--force"),
    cli("kill", (await stubborn()).id),
  ]);
  for (const { code, out } of forced) {
    is(code, 0);
    match(out, /PID \d+ \(\d+ members?, KILL was needed, \d+ ms\)\n$/);
  }
  const { id, pid } = await stubborn();
  const asked = await cli("terminate", "--no-wait", id);
  equal(asked, { code: 0, out: `Process is being terminated: PID ${pid}\n`, err: "" });
  is(isAlive(pid ?? 0), true);
  is((await cli("kill", "--no-wait", id)).code, 0);
  is((await client.wait({ id })).process.signal, "SIGKILL");
});

scenario("signal takes names with and without SIG, and numbers", async (scene) => {
  const { cli, client } = await setUp(scene);
  const { id } = await spawnReady(client, testProgram("reports-hup.sh"));
  for (const [at, name] of ["HUP", "SIGHUP", "hup", "1"].entries()) {
    const said = await cli("signal", name, id);
    equal(said, { code: 0, out: `SIGHUP sent to ${id} (1 member)\n`, err: "" });
    const text = `ready\n${"hup\n".repeat(at + 1)}`;
    await until("it came", async () => (await client.logs({ id })).text === text);
  }
  for (const name of ["NOPE", "0", "99", "SIGSIG"]) {
    const said = await cli("signal", name, id);
    equal([said.code, said.out], [2, ""]);
    match(said.err, /^procsup: .*'signal'\. Expected a signal like TERM, SIGTERM or 15\.\n$/);
  }
});

scenario(
  "an end that nobody saw, and a command that never ran, are told as that",
  async (scene) => {
    const first = await startDaemon(scene);
    const before = await first.connect();
    const { id, pid } = await before.spawn({ command: sleep });
    const failed = await idOfRefused(before.spawn({ command: ["/no/such/program"] }));
    await crash(first);
    process.kill(pid ?? 0, "SIGKILL");
    await until("it is reaped", () => !existsSync(`/proc/${pid}`));
    const { cli } = await setUp(scene, {});
    const known = { code: 125, out: "" };
    equal(await cli("wait", id), {
      ...known,
      err: `procsup: ${id} exited: how it ended nobody knows\n`,
    });
    equal(await cli("wait", failed), {
      ...known,
      err: `procsup: ${failed} failed: command: ENOENT\n`,
    });
    match((await cli("list", "--all")).out, new RegExp(`${id} .* exited +unknown `));
  },
);

/** Of a process that was refused. */
async function idOfRefused(spawned: Promise<unknown>): Promise<string> {
  const refusal = await spawned.catch((error: Refusal) => error);
  return String((refusal as Refusal).facts["id"]);
}

scenario("pause stops every member, resume lets them go on", async (scene) => {
  const { cli, client } = await setUp(scene);
  const { id, pid } = await spawnReady(client, testProgram("ignores-term.sh"));
  const members = async () => (await client.status({ id })).members.map((one) => one.pid);
  await until("both are there", async () => (await members()).length === 2);
  equal(await cli("pause", id), { code: 0, out: `paused: PID ${pid}\n`, err: "" });
  await until("all are paused", async () => (await members()).every(isPaused));
  equal(await cli("resume", id), { code: 0, out: `resumed: PID ${pid}\n`, err: "" });
  await until("none is paused", async () => !(await members()).some(isPaused));
  const tree = await cli("signal", "--tree", "WINCH", "nobody", id);
  const err = "procsup: Process not found: name nobody\n";
  equal(tree, { code: 4, out: `SIGWINCH sent to ${id} (2 members)\n`, err });
});

scenario("wait exits with the process's own code", async (scene) => {
  const { cli, client } = await setUp(scene);
  const run = async (script: string) => (await client.spawn({ command: ["sh", "-c", script] })).id;
  const cases: [number, string][] = [
    [0, "exit 0"],
    [3, "exit 3"],
    [255, "exit 255"],
    [143, "kill -TERM $$"],
    [137, "kill -KILL $$"],
  ];
  for (const [code, script] of cases) {
    equal(await cli("wait", await run(script)), { code, out: "", err: "" }, script);
  }
  const id = await run("exec sleep 1000");
  equal(await cli("wait", id, "--timeout", "20ms"), { code: 124, out: "", err: "" });
  is((await cli("wait", "nobody")).code, 125);
  const pending = cli("wait", "--json", id);
  await client.terminate({ id });
  const said = await pending;
  const { ended, process } = documentOf(said) as { ended: boolean; process: Process };
  equal([said.code, ended, process.status], [143, true, "terminated"]);
});

theDaemonGoes();
