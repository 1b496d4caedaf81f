// What a spawned command finds: marks, limits, environment; and what is told of one that cannot start.

import { chownSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import net from "node:net";
import { userInfo } from "node:os";
import { join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import { type Process, Refusal } from "../client/wire.js";
import { containments } from "./cage.js";
import { outputOf } from "./commands.js";
import {
  call,
  crash,
  daemonFile,
  type Raw,
  startDaemon,
  theDaemonGoes,
  visitDaemon,
} from "./daemon.js";
import { isAlive, scenario, scenarioUnless, until, whyNot } from "./scenario.js";

/** A user's number that no account has. */
const NOBODY = 54_321;

scenario(
  "without room for another process or file the daemon says so and lives on",
  async (scene) => {
    const daemon = await startDaemon(scene, {
      prefix: ["sh", "-c", 'ulimit -n 40; exec "$@"', "sh"],
    });
    const client = await daemon.connect();
    const spawned: string[] = [];
    const full: Refusal[] = [];
    const connections: Raw[] = [];
    const descriptors = () => readdirSync(`/proc/${daemon.pid}/fd`).length;
    while (descriptors() < 39) connections.push(await daemon.raw());
    for (let count = 0; count < 20; count++) {
      await client.spawn({ command: ["sleep", "1000"] }).then(
        ({ id }) => spawned.push(id),
        (error: Refusal) => full.push(error),
      );
    }
    if (full.length === 0) throw new Error("the limit was never met");
    for (const { kind, facts } of full) {
      equal([kind, facts["errno"]], ["spawn_failed", "EMFILE"]);
      match(String(facts["stage"]), /^(fork|output)$/);
    }
    for (const id of spawned) is((await client.terminate({ id })).status, "terminated");
    for (const { socket } of connections) socket.destroy();
    await until("there is room again", () =>
      client.spawn({ command: ["true"] }).then(
        () => true,
        () => false,
      ),
    );
  },
);

/** What a shell would drop, change, obey or add, beside what everybody has. */
const environments: Record<string, string>[] = [
  { PATH: "/bin:/usr/bin", "foo.bar": "odd", EMPTY: "", UMLAUT: "ä", "A-B": "=", LINES_: "a\nb" },
  { PATH: "/bin:/usr/bin", "-i": "an option of env(1)", "-u": "PATH" },
  { PATH: "/bin:/usr/bin", PWD: "/elsewhere", OLDPWD: "/", IFS: "x", PS4: "+", OPTIND: "7" },
  { PATH: "/bin:/usr/bin", PPID: "3", SHELLOPTS: "noexec", BASH_ENV: "/x", ENV: "/x", _: "_" },
];

for (const containment of containments) {
  const what = "the command has the client's folder and environment, marked, and no other";
  scenario(`${containment}: ${what}`, async (scene) => {
    const args = ["--containment", containment];
    const surroundings = { OF_THE_DAEMON: "1", NOTIFY_SOCKET: "/x" };
    const daemon = await startDaemon(scene, { args, env: surroundings });
    const client = await daemon.connect();
    const pwd = await outputOf(client, { command: ["/bin/pwd"], cwd: scene.folder });
    is(pwd, `${scene.folder}\n`);
    const odd = join(scene.folder, "x=y"); // env(1) would take it for a variable
    writeFileSync(odd, '#!/bin/sh\necho "$0 $1"\n', { mode: 0o755 });
    const said = await outputOf(client, { command: [odd, "echo"], env: { "a-b": "1" } });
    is(said, `${odd} echo\n`);
    for (const [at, env] of environments.entries()) {
      const params = { command: ["env", "-0"], env, name: `web${at}`, cwd: scene.folder };
      const text = await outputOf(client, params);
      const { id } = await client.status({ name: `web${at}` });
      const got = text.split("\0").filter(Boolean);
      const marks = { PROCSUP_ID: id, PROCSUP_NAME: `web${at}`, PROCSUP_SOCKET: daemon.socket };
      const expected = Object.entries({ ...env, ...marks }).map((pair) => pair.join("="));
      equal(got.sort(), expected.sort());
    }
  });
}

scenario("a process has marks of its own, whatever its caller hands on", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const others = { PROCSUP_ID: "p000000000000", PROCSUP_NAME: "web", PROCSUP_SOCKET: "/other" };
  const env = { PATH: "/bin:/usr/bin", ...others };
  const text = await outputOf(client, { command: ["env"], env });
  const marks = text.split("\n").filter((line) => line.startsWith("PROCSUP_"));
  const [{ id } = { id: "" }] = (await client.list({ all: true })).processes.slice(-1);
  equal(marks.sort(), [`PROCSUP_ID=${id}`, `PROCSUP_SOCKET=${daemon.socket}`]);
});

scenario("without env and cwd it gets those of its user at login, and /", async (scene) => {
  const daemon = await startDaemon(scene, { env: { OF_THE_DAEMON: "1" } });
  const raw = await daemon.raw();
  const client = await daemon.connect();
  const { result } = await raw.ask(call("spawn", { command: ["sh", "-c", "pwd; exec env"] }));
  const id = String(result?.["id"]);
  await client.wait({ id });
  const { text } = await client.logs({ id });
  const { username, homedir } = userInfo();
  match(text, /^\/\n/);
  match(text, new RegExp(`^HOME=${homedir}$`, "m"));
  match(text, new RegExp(`^USER=${username}$`, "m"));
  match(text, /^PATH=/m);
  is(text.includes("OF_THE_DAEMON"), false);
});

scenario("the command is leader of a session and group of its own", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const text = await outputOf(client, { command: ["sh", "-c", "cut -d' ' -f1,5,6 /proc/$$/stat"] });
  const [pid, pgrp, session] = text.trim().split(" ");
  equal([pgrp, session], [pid, pid]);
});

scenario("no two that live have the same tag, not even after a crash", async (scene) => {
  const dice = join(scene.folder, "dice.cjs");
  // The first three ids of each daemon would end alike, which is all that tags hold of them.
  const loaded = `const crypto = require("node:crypto"), fair = crypto.randomUUID; let left = 3;
    crypto.randomUUID = () => (left-- > 0 ? fair().slice(0, -8) + "00000001" : fair());`;
  writeFileSync(dice, loaded);
  const options = { args: ["--containment", "group"], env: { NODE_OPTIONS: `--require ${dice}` } };
  const first = await startDaemon(scene, options);
  const client = await first.connect();
  const one = await client.spawn({ command: ["sleep", "1000"] });
  const two = await client.spawn({ command: ["sleep", "1000"] });
  await crash(first);
  const second = await (await startDaemon(scene, options)).connect();
  const three = await second.spawn({ command: ["sleep", "1000"] });
  const ends = [one, two, three].map(({ id }) => id.slice(-8));
  equal([ends[0], new Set(ends).size], ["00000001", 3]);
  is((await second.terminate({ id: one.id })).ended, 1);
  equal(
    [two, three].map(({ pid }) => isAlive(pid ?? 0)),
    [true, true],
  );
});

scenario("the signal that ended it has its usual name", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  for (const signal of ["SIGABRT", "SIGIO", "SIGTERM"]) {
    const command = ["sh", "-c", `ulimit -c 0; kill -${signal.slice(3)} $$`];
    const { id } = await client.spawn({ command });
    is((await client.wait({ id })).process.signal, signal);
  }
});

scenario("a living name is taken, an ended one is free", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const first = await client.spawn({ command: ["sleep", "1000"], name: "web" });
  const another = client.spawn({ command: ["true"], name: "web" });
  const refusal = await another.catch((error: unknown) => error);
  if (!(refusal instanceof Refusal)) throw new Error("expected a refusal");
  is(refusal.kind, "name_taken");
  is((refusal.facts["holder"] as { id: string }).id, first.id);
  await client.terminate({ name: "web" });
  const second = await client.spawn({ command: ["sleep", "1000"], name: "web" });
  is((await client.status({ name: "web" })).id, second.id);
  is((await client.status({ id: first.id })).status, "terminated");
  is(isAlive(second.pid ?? 0), true);
});

scenario("params are strict: the error names the field and what would do", async (scene) => {
  const { ask } = await (await visitDaemon(scene)).raw();
  const own = (key: string): unknown => JSON.parse(`{"A":"1","${key}":"1"}`);
  const cases: [string, unknown, RegExp][] = [
    ["spawn", {}, /^spawn: command: is missing$/],
    ["spawn", { command: [] }, /command: /],
    ["spawn", { command: "ls -l" }, /command: expected Array/],
    ["spawn", { command: [""] }, /command: must name a program/],
    ["spawn", { command: [] }, /command: must name a program/],
    ["spawn", { command: ["true"], graceMs: 1.5 }, /graceMs: must be a whole number/],
    ["spawn", { command: ["true"], cwd: `/${"x".repeat(4096)}` }, /cwd: must be at most 4095/],
    ["spawn", { command: ["a\0b"] }, /command\.0: must not contain a NUL byte/],
    ["spawn", { command: ["true"], cwd: "here" }, /cwd: must be an absolute path/],
    ["spawn", { command: ["true"], env: { "A=B": "1" } }, /env\.A=B: /],
    ["spawn", { command: ["true"], env: { A: 1 } }, /env\.A: expected string/],
    ["spawn", { command: ["true"], env: [] }, /env: must be an object, not an array$/],
    ["spawn", { command: ["true"], env: "A=1" }, /env: expected Object/],
    ["spawn", { command: ["true"], env: own("__proto__") }, /env: must not hold __proto__, /],
    ["spawn", { command: ["true"], env: own("constructor") }, /env: must not hold .*constructor/],
    ["spawn", { command: ["true"], env: own("prototype") }, /env: must not hold .*prototype/],
    ["spawn", { command: ["true"], nam: "x" }, /unknown field nam; known: command, name, /],
    ["spawn", { command: ["true"], name: "9lives" }, /name: must start with a letter/],
    ["spawn", { command: ["true"], graceMs: 1.5 }, /graceMs: /],
    ["spawn", { command: ["true"], stopSignal: "TERM" }, /stopSignal: .*SIGTERM/],
    ["terminate", {}, /give exactly one of pid, id, name/],
    ["terminate", { pid: 1, name: "x" }, /give exactly one of pid, id, name/],
    ["terminate", { pid: -1 }, /pid: /],
    ["terminate", { pid: "1" }, /pid: /],
    ["terminate", [12345], /params are by name/],
    ["logs", { name: "x", from: 1, tailLines: 1 }, /give from or tailLines, not both/],
  ];
  for (const [method, params, pattern] of cases) {
    const { error } = await ask({ jsonrpc: "2.0", method, params, id: 1 });
    equal([error?.code, error?.data?.["kind"]], [-32602, "invalid_params"]);
    match(error?.message ?? "", pattern);
  }
});

scenario("an error never repeats what was sent", async (scene) => {
  const { ask } = await (await visitDaemon(scene)).raw();
  const secret = "hunter2";
  const env = { PASSWORD: [secret] };
  const reply = await ask(call("spawn", { command: ["true"], env }));
  is(JSON.stringify(reply).includes(secret), false);
});

scenario("the daemon's descriptors do not reach the command", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const text = await outputOf(client, { command: ["sh", "-c", "ls /proc/$$/fd; true"] });
  equal(text.trim().split("\n"), ["0", "1", "2"]);
});

scenario("the output files are for the daemon's user alone", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  mkdirSync(join(scene.folder, "empty"));
  const { id } = await client.spawn({ command: ["true"] });
  await client.wait({ id });
  const command = ["stat", "-c", "%a", join(daemon.state, "output", `${id}.stdout`), daemon.state];
  is(await outputOf(client, { command }), "600\n700\n");
});

/** Allowed to read, wherever this repository lies. man 7 capabilities. */
const reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"];
const asUser = ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups", ...reading];

// Root is above that limit, so it is another user's daemon. man 2 setrlimit, RLIMIT_NPROC.
scenarioUnless(
  whyNot([...asUser, process.execPath, daemonFile, "--version"]),
  "where no process more may begin the daemon says so, and ends those that have",
  async (scene) => {
    chownSync(scene.folder, NOBODY, NOBODY);
    const prefix = [...asUser, "prlimit", "--nproc=30:30"];
    const client = await (await startDaemon(scene, { prefix })).connect();
    const begun: Process[] = [];
    const refusal = await until("no more may begin", async () => {
      try {
        begun.push(await client.spawn({ command: ["sleep", "1000"] }));
        return null;
      } catch (error) {
        return error as Refusal;
      }
    });
    const { kind, facts } = refusal;
    equal([kind, facts["stage"], facts["errno"]], ["spawn_failed", "fork", "EAGAIN"]);
    ok(begun.length > 0);
    for (const { id } of begun) is((await client.terminate({ id })).status, "terminated");
    equal(
      begun.filter(({ pid }) => isAlive(pid ?? 0)),
      [],
    );
    await client.spawn({ command: ["sleep", "1000"] });
  },
);

scenario("a command starts beside more descriptors than it may have itself", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const USUAL_FILES = 1024;
  const others = Array.from({ length: 1_015 }, () => net.connect({ path: daemon.socket }));
  scene.after(() => {
    for (const other of others) other.destroy();
  });
  const held = () => readdirSync(`/proc/${daemon.pid}/fd`).length;
  await until("they are all in", () => held() > USUAL_FILES);
  const { id } = await client.spawn({ command: ["cat", "/proc/self/limits"] });
  const { process: ended } = await client.wait({ id });
  is(ended.exitCode, 0);
  match((await client.logs({ id })).text, /^Max open files +1024 /m);
});

theDaemonGoes();
