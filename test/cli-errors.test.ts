// What the CLI does when something is wrong, and how it behaves towards scripts and pipes.

import { spawn, spawnSync } from "node:child_process";
import { chmodSync, closeSync, copyFileSync, openSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match, ok, throws } from "uvu/assert";
import { readDurationMs } from "../client/cli/arguments.js";
import { cliFile, documentOf, listenTo, runCli, setUp, sleep } from "./cli.js";
import { theDaemonGoes } from "./daemon.js";
import { scenario } from "./scenario.js";

scenario(
  "with --json every answer and every error is one document",
  async (scene) => {
    const { cli, client } = await setUp(scene);
    const { id } = await client.spawn({ command: sleep, name: "web" });
    const cases: [number, string | null, string[]][] = [
      [0, null, ["list", "--json"]],
      [0, null, ["--json", "--help"]],
      [0, null, ["help", "list", "--json"]],
      [0, null, ["--version", "--json"]],
      [2, "usage", ["--json"]],
      [0, null, ["--json", "list"]],
      [0, null, ["status", "web", "--json"]],
      [0, null, ["usage", "--json", "web"]],
      [0, null, ["info", "--json"]],
      [0, null, ["logs", "--json", "web"]],
      [0, null, ["signal", "CONT", "web", "--json"]],
      [0, null, ["pause", "--json", "web"]],
      [0, null, ["resume", "--json", "web"]],
      [124, null, ["wait", "web", "--timeout", "1ms", "--json"]],
      [127, "spawn_failed", ["start", "--json", "no-such-command"]],
      [4, "process_not_found", ["status", "nobody", "--json"]],
      [4, "process_not_found", ["usage", "nobody", "--json"]],
      [4, "process_not_found", ["logs", "nobody", "--json"]],
      [4, "process_not_found", ["logs", "-f", "nobody", "--json"]],
      [4, "process_not_found", ["terminate", "--json", "nobody"]],
      [4, "process_not_found", ["kill", "--json", "nobody"]],
      [4, "process_not_found", ["signal", "--json", "HUP", "nobody"]],
      [125, "process_not_found", ["wait", "nobody", "--json"]],
      [2, "usage", ["status", "0", "--json"]],
      [1, "disconnected", ["list", "--json", "--socket", join(scene.folder, "none")]],
      [1, "disconnected", ["--socket", join(scene.folder, "none"), "list", "--json"]],
      [2, "usage", ["list", "--bogus", "--json"]],
      [2, "usage", ["signal", "--json", "NOPE", "web"]],
      [2, "usage", ["status", "--json"]],
      [2, "usage", ["lst", "--json"]],
      [2, "usage", ["stop", "--grace", "soon", "1", "--json"]],
      [2, "usage", ["list", "--status", "dead", "--json"]],
      [2, "usage", ["list", "--json", "--status"]],
      [125, "usage", ["start", "--json", "--bogus", "--", "true"]],
      [2, "usage", ["uninstall", "--json", "--socket", "x"]],
      [2, "usage", ["--socket", "x", "--json", "uninstall"]],
    ];
    const check = async ([code, kind, args]: (typeof cases)[number]) => {
      const said = await cli(...args);
      const { error } = documentOf(said) as { error?: { kind: string; message: string } };
      equal([said.code, said.err, error?.kind ?? null], [code, "", kind], args.join(" "));
      if (error !== undefined) match(error.message, /^\S/);
    };
    await Promise.all(cases.map(check));
    await check([0, null, ["stop", "--json", id]]);
  },
  60_000,
);

scenario("who cannot connect learns which socket, why, and what to do", async (scene) => {
  const at = (name: string) => join(scene.folder, name);
  const { daemon } = await setUp(scene, {});
  daemon.child.kill("SIGKILL");
  await daemon.exited;
  writeFileSync(at("file"), "");
  const long = at("x".repeat(108));
  const cases: [string, RegExp][] = [
    [at("none"), /none: it does not exist; start the daemon: procsupd \(npm start in a clone\)/],
    [daemon.socket, /s: it exists, but nothing listens on it; start the daemon again/],
    [at("file"), /file: it exists, but is no socket; name the right one with --socket or/],
    [long, /x: a socket's path has at most 107 bytes/],
  ];
  for (const [path, why] of cases) {
    const said = await runCli(scene, ["list", "--socket", path]).said;
    equal([said.code, said.out], [1, ""]);
    ok(said.err.startsWith(`procsup: Cannot connect to ${path}: `), said.err);
    match(said.err, why);
  }
  const empty = await runCli(scene, ["list", "--socket", ""]).said;
  match(empty.err, /^procsup: Which socket\? its path is empty: name it with --socket or PROC/);
});

scenario("without rights to a socket, or a default, the reason is named", async (scene) => {
  const { daemon } = await setUp(scene, {});
  // As root nothing is forbidden: then somebody else asks, with a copy that anybody may read.
  const file = join(scene.folder, "procsup.cjs");
  copyFileSync(cliFile, file);
  chmodSync(daemon.socket, 0);
  chmodSync(scene.folder, 0o755);
  const other = process.getuid?.() === 0 ? { uid: 65_534, file } : { file };
  if (spawnSync(process.execPath, ["--version"], other).status !== 0) {
    console.log("skipped: node itself is not for every user here");
    return;
  }
  const asOther = (env: NodeJS.ProcessEnv) => runCli(scene, ["ls"], { ...other, env }).said;
  const denied = await asOther({ PROCSUP_SOCKET: daemon.socket });
  equal([denied.code, denied.out], [1, ""]);
  match(denied.err, /s: it exists, but this user may not use it; join its group, or/);
  for (const env of [{}, { PROCSUP_SOCKET: "" }, { XDG_RUNTIME_DIR: "" }]) {
    const unset = await asOther(env);
    is(unset.code, 1);
    match(unset.err, /^procsup: Which socket\? XDG_RUNTIME_DIR is not set: name it with --socket/);
  }
  const byDefault = await asOther({ XDG_RUNTIME_DIR: scene.folder });
  match(byDefault.err, /Cannot connect to \S+\/procsup\.sock: it does not exist/);
});

scenario("the beginning of two ids names neither", async (scene) => {
  const { cli, client } = await setUp(scene);
  const ids: string[] = [];
  const shared = () =>
    ids.map((id) => id.slice(0, 3)).find((one, at, all) => all.indexOf(one) !== at);
  while (shared() === undefined) {
    ids.push((await client.spawn({ command: ["true"], output: "null" })).id);
  }
  is((await cli("status", shared() ?? "")).code, 4);
});

scenario("help is no error, a usage error says what would do", async (scene) => {
  const cli = (...args: string[]) => runCli(scene, args).said;
  const good = await Promise.all(
    [["--help"], ["start", "--help"], ["--version"]].map((args) => cli(...args)),
  );
  for (const { code, out, err } of good) ok(code === 0 && out !== "" && err === "");
  const cases: [RegExp, string[]][] = [
    [/^Usage: procsup/, []],
    [/^procsup: unknown command 'termnate'\n\(Did you mean terminate\?\)\n$/, ["termnate", "1"]],
    [/^procsup: unknown option '--forse'\n\(Did you mean --force\?\)\n$/, ["stop", "--forse", "1"]],
    [/^procsup: missing required argument 'targets'\n$/, ["stop"]],
    [/^procsup: missing required argument 'command'\n$/, ["start", "--"]],
    [
      /Expected a duration of at most a day, like 500ms, 10s or 2m\.\n$/,
      ["stop", "--grace", "soon", "1"],
    ],
    [/Expected NAME=VALUE\.\n$/, ["start", "-e", "A", "true"]],
    [/Expected starting, running, /, ["ls", "--status", "dead"]],
    [/too many arguments for 'wait'/, ["wait", "1", "2"]],
    [/value '-5' is invalid .* Expected a pid, an id or a name\.\n$/, ["kill", "web", "--", "-5"]],
    [/add '--end'\n$/, ["strays", "--force"]],
  ];
  // Where codes are the command's own, none of ours may look like one.
  const speaking = ["start", "run", "wait"];
  for (const [pattern, args] of cases) {
    const said = await cli(...args);
    const code = speaking.includes(args[0] ?? "") ? 125 : 2;
    equal([said.code, said.out], [code, ""], args.join(" "));
    match(said.err, pattern);
  }
});

scenario("an option of the command's is never taken for ours", async (scene) => {
  const cases: [RegExp, string[]][] = [
    [/^procsup: unknown option '--bogus'\n$/, ["start", "--bogus", "--", "echo", "--json"]],
    [/Expected a duration/, ["start", "--grace", "soon", "--", "echo", "--json"]],
    [/^Usage: procsup start /, ["start", "--help", "--", "echo", "--json"]],
    [/^procsup: Cannot connect to /, ["start", "--socket", "none", "echo", "--json"]],
  ];
  for (const [pattern, args] of cases) {
    const { out, err } = await runCli(scene, args).said;
    match(out + err, pattern, args.join(" "));
  }
});

scenario("who names a socket that is not asked for is refused", async (scene) => {
  for (const verb of ["install", "uninstall"]) {
    const own = await runCli(scene, [verb, "--dry-run", "--socket", "x"]).said;
    equal([own.code, own.err], [2, "procsup: unknown option '--socket'\n"]);
    const common = await runCli(scene, ["--socket", "x", verb, "--dry-run"]).said;
    equal([common.code, common.err], [2, `procsup: '${verb}' has no option '--socket'\n`]);
  }
});

scenario("a reader that has enough ends the command without a word", async (scene) => {
  const { cli, client, env } = await setUp(scene);
  const { id } = await client.spawn({ command: ["seq", "200000"] });
  await client.wait({ id });
  const head = async (lines: string, ...args: string[]) => {
    const script = `"$@" | head -n ${lines}`;
    const argv = ["-c", script, "sh", process.execPath, cliFile, ...args];
    const child = spawn("sh", argv, { env: { PATH: process.env["PATH"], ...env } });
    return listenTo(child).said;
  };
  equal(await head("0", "ls"), { code: 0, out: "", err: "" });
  equal(await head("1", "logs", id), { code: 0, out: "1\n", err: "" });
  equal(await head("1", "logs", "-f", id), { code: 0, out: "1\n", err: "" });
  is((await head("1", "ls", "--json")).err, "");
  const deaf = runCli(scene, ["ls"], { env });
  deaf.child.stdout?.destroy();
  equal(await deaf.said, { code: 141, out: "", err: "" });
  is((await cli("ls")).code, 0);
});

scenario("a full disk is an error, not a crash", async (scene) => {
  const { env } = await setUp(scene);
  const full = openSync("/dev/full", "w");
  scene.after(() => closeSync(full));
  const said = await runCli(scene, ["ls"], { env, stdout: full }).said;
  is(said.code, 1);
  match(said.err, /^procsup: cannot write: ENOSPC[^\n]*\n$/);
});

scenario("durations have a unit, or are seconds", () => {
  const cases: [string, number][] = [
    ["500ms", 500],
    ["10s", 10_000],
    ["10", 10_000],
    ["0", 0],
    ["1.5m", 90_000],
    ["24h", 86_400_000],
  ];
  for (const [typed, durationMs] of cases) is(readDurationMs(typed), durationMs, typed);
  for (const typed of ["", "s", "-1s", "25h", "1d", "1e3", "1s "]) {
    throws(() => readDurationMs(typed), /Expected a duration/, typed);
  }
});

theDaemonGoes();
