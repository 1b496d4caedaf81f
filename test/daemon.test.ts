// The daemon as a program: its socket and state, its settings, how it starts or refuses to, logs and goes.

import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import net, { type AddressInfo } from "node:net";
import { dirname, join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import { connect } from "../client/client.js";
import { noCgroup, openCgroup } from "./cage.js";
import { spawnReady, testProgram } from "./commands.js";
import { call, daemonFile, launchDaemon, startDaemon } from "./daemon.js";
import { ask } from "./http.js";
import { isAlive, type Scene, scenario, scenarioUnless, until, whyNot } from "./scenario.js";

const logged = (log: string[], word: string) => log.some((line) => line.includes(word));

scenario("the socket is for this user alone, and gone after a stop", async (scene) => {
  const daemon = await startDaemon(scene);
  const stat = statSync(daemon.socket);
  ok(stat.isSocket());
  is(stat.mode & 0o777, 0o600);
  daemon.child.kill("SIGTERM");
  is(await daemon.exited, 0);
  is(existsSync(daemon.socket), false);
});

scenario(
  "a second daemon leaves the first one's socket and state alone, and says so",
  async (scene) => {
    const first = await startDaemon(scene);
    const raw = await first.raw();
    const rival = launchDaemon(scene, { state: join(scene.folder, "other") });
    is(await rival.exited, 78);
    await until("it says why", () =>
      logged(rival.log, `another procsupd listens on ${first.socket}`),
    );
    unlinkSync(first.socket);
    const late = launchDaemon(scene, { state: join(scene.folder, "third") });
    is(await late.exited, 78);
    await until("it says what is wrong", () => logged(late.log, "its socket is not there"));
    const twin = launchDaemon(scene, { socket: join(scene.folder, "other.sock") });
    is(await twin.exited, 78);
    await until("it says why", () => logged(twin.log, "another procsupd uses the state directory"));
    ok((await raw.ask(call("info"))).result);
  },
);

scenario("after kill -9 the stale socket is replaced", async (scene) => {
  const first = await startDaemon(scene);
  first.child.kill("SIGKILL");
  await first.exited;
  ok(existsSync(first.socket));
  const second = await startDaemon(scene);
  ok((await (await second.raw()).ask(call("info"))).result);
});

scenario("a live socket of another program is never unlinked", async (scene) => {
  const socket = join(scene.folder, "s");
  const stranger = net.createServer().listen(socket);
  scene.after(() => void stranger.close());
  const daemon = launchDaemon(scene);
  is(await daemon.exited, 78);
  await until("it says why", () => logged(daemon.log, "another program listens"));
  ok(existsSync(socket));
});

scenario("a file that is no socket is left alone, and nothing is put beside it", async (scene) => {
  writeFileSync(join(scene.folder, "s"), "precious");
  const daemon = launchDaemon(scene);
  is(await daemon.exited, 78);
  await until("it says why", () => logged(daemon.log, "is no socket"));
  is(statSync(join(scene.folder, "s")).size, 8);
  equal(readdirSync(scene.folder), ["s"]);
});

scenario("a successor's socket is not removed at exit", async (scene) => {
  const daemon = await startDaemon(scene);
  rmSync(daemon.socket);
  const successor = net.createServer().listen(daemon.socket);
  scene.after(() => void successor.close());
  await until("the successor listens", () => existsSync(daemon.socket));
  daemon.child.kill("SIGTERM");
  await daemon.exited;
  ok(existsSync(daemon.socket));
});

scenario("a socket that is out of reach breaks off no stop", async (scene) => {
  const folder = join(scene.folder, "run");
  mkdirSync(folder);
  const daemon = await startDaemon(scene, { socket: join(folder, "s") });
  await (await daemon.connect()).spawn({ command: ["sleep", "1000"] });
  renameSync(folder, `${folder}~`);
  writeFileSync(folder, "");
  daemon.child.kill("SIGTERM");
  is(await daemon.exited, 0);
});

scenario("a socket that systemd passes is refused where it is no Unix socket", async (scene) => {
  const server = net.createServer().listen(0, "127.0.0.1");
  scene.after(() => void server.close());
  const port = await new Promise<number>((done) => {
    server.once("listening", () => done((server.address() as AddressInfo).port));
  });
  const env = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=procsup.socket";
  const script = `exec 3<>/dev/tcp/127.0.0.1/${port}; ${env} exec "$@"`;
  const daemon = launchDaemon(scene, { prefix: ["bash", "-c", script, "bash"] });
  is(await daemon.exited, 78);
  await until("it says why", () => daemon.log.length > 0);
  match(daemon.log.join("\n"), /passes one that is no Unix socket: leave one ListenStream=PATH/);
});

scenario(
  "TERM ends all processes in parallel, answers who waits, and exits with 0",
  async (scene) => {
    const daemon = await startDaemon(scene);
    const client = await daemon.connect();
    const files = [1, 2, 3, 4].map((n) => join(scene.folder, `file${n}`));
    const spawned = await Promise.all(
      files.map((file) => spawnReady(client, testProgram("slow-handler.sh", file))),
    );
    const waits = spawned.map(({ id }) => client.wait({ id }));
    daemon.child.kill("SIGTERM");
    for (const { ended, process } of await Promise.all(waits)) {
      equal([ended, process.status, process.exitCode], [true, "terminated", 3]);
    }
    is(await daemon.exited, 0);
    equal(files.map(existsSync), [true, true, true, true]);
  },
);

scenario("while it goes down it starts nothing, and still answers", async (scene) => {
  const daemon = await startDaemon(scene);
  const raw = await daemon.raw();
  const command = testProgram("ignores-term.sh");
  const { result } = await raw.ask(call("spawn", { command, graceMs: 60_000 }));
  const pid = Number(result?.["pid"]);
  const log = join(daemon.state, "output", `${result?.["id"]}.stdout`);
  await until("ready", () => statSync(log).size > 0);
  daemon.child.kill("SIGTERM");
  await until("it is stopping", () => logged(daemon.log, '"stopping"'));
  const refused = (await raw.ask(call("spawn", { command: ["true"] }))).error;
  equal([refused?.code, refused?.data?.["kind"]], [-32008, "shutting_down"]);
  is((await raw.ask(call("status", { pid }))).result?.["status"], "stopping");
  is(isAlive(pid), true);
  daemon.child.kill("SIGINT");
  is(await daemon.exited, 0);
  is(isAlive(pid), false);
});

const asking = "while it asks the manager what it is to do it starts nothing either";

scenarioUnless(noCgroup, asking, async (scene) => {
  const unit = join(openCgroup(scene).folder, "x.service");
  mkdirSync(unit);
  const [asked, told] = [join(scene.folder, "asked"), join(scene.folder, "told")];
  const answer = "echo 1 x.service restart running";
  const script = `#!/bin/sh\n>${asked}\nuntil [ -e ${told} ]; do sleep 0.01; done\n${answer}\n`;
  writeFileSync(join(scene.folder, "systemctl"), script, { mode: 0o755 });
  const prefix = ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', unit];
  const env = {
    PATH: `${scene.folder}:${process.env["PATH"]}`,
    NOTIFY_SOCKET: join(scene.folder, "notify"),
  };
  const daemon = await startDaemon(scene, { prefix, env, args: ["--containment", "group"] });
  const raw = await daemon.raw();
  daemon.child.kill("SIGTERM");
  await until("it asks", () => existsSync(asked));
  const refused = (await raw.ask(call("spawn", { command: ["true"] }))).error;
  is(refused?.data?.["kind"], "shutting_down");
  is((await ask(daemon.socket, "/healthz", { method: "GET" })).status, 503);
  writeFileSync(told, "");
  is(await daemon.exited, 0);
  ok(logged(daemon.log, '"left"'));
});

/** It does not start with these flags, says why, and has touched nothing. */
async function isRefused(scene: Scene, args: string[], why: RegExp): Promise<void> {
  const before = readdirSync(scene.folder);
  const daemon = launchDaemon(scene, { args });
  is(await daemon.exited, 78);
  await until("it says why", () => daemon.log.length > 0);
  match(daemon.log.join("\n"), why);
  equal(readdirSync(scene.folder), before);
}

scenario("bad settings are refused by name, before anything is touched", async (scene) => {
  const cases: [string[], RegExp][] = [
    [["--output-bytes", "0"], /outputBytes: must be at least 65536; .* spawn with output "null"/],
    [["--output-bytes", "1M"], /outputBytes: must be a whole number of bytes/],
    [["--output-bytes", ""], /outputBytes: must be a whole number of bytes/],
    [["--socket", ""], /socket: must not be empty/],
    [["--socket", pathOf(scene, 107)], /a socket's path has at most 106 bytes here: choose a sh/],
    [["--state", ""], /state: must not be empty/],
    [["--containment", "jail"], /containment/],
    [["--log-level", "loud"], /logLevel/],
    [["--nonsense"], /--nonsense/],
    [["--config", join(scene.folder, "none.json")], /none\.json/],
  ];
  for (const [args, why] of cases) await isRefused(scene, args, why);
  const prefix = ["sh", "-c", 'mkdir "$0"; cd "$0"; rmdir "$0"; exec "$@"', pathOf(scene, 100)];
  const nowhere = launchDaemon(scene, { prefix, args: ["--socket", "s"] });
  is(await nowhere.exited, 78);
  match(nowhere.log.join("\n"), /socket: is relative to a folder that is gone: let it begin with/);
});

scenario("so is a file of settings that is none", async (scene) => {
  const file = join(scene.folder, "file.json");
  const cases: [unknown, RegExp][] = [
    [{ outputBytes: 65_535 }, /json: outputBytes: must be at least 65536/],
    [{ "log-level": "info" }, /json: log-level: is no setting; known are socket, state, .*users$/],
    [{ users: { "*": { rate: 1 } } }, /json: users\.\*\.rate: is no setting; known are barred, /],
    [[], /json: must be an object$/],
    [null, /json: must be an object$/],
    [{ users: [] }, /json: users: must be an object$/],
    [{ users: { "*": [] } }, /json: users\.\*: must be an object$/],
    [{ users: { "*": {}, 7: {}, "no-such": {} } }, /: users: there is no user no-such$/],
    [{ adminGroup: "no-such" }, /: adminGroup: there is no group no-such$/],
  ];
  for (const [settings, why] of cases) {
    writeFileSync(file, JSON.stringify(settings));
    await isRefused(scene, ["--config", file], why);
  }
});

/** In the scene's folder, and of so many bytes. */
function pathOf({ folder }: Scene, bytes: number): string {
  return join(folder, "x".repeat(bytes - folder.length - 1));
}

scenario("a socket may have the longest path that is allowed", async (scene) => {
  const daemon = await startDaemon(scene, { socket: pathOf(scene, 106) });
  ok((await (await daemon.raw()).ask(call("info"))).result);
});

scenario("without its system calls it says so in one sentence, and touches nothing", (scene) => {
  const file = join(scene.folder, "procsupd.cjs");
  const state = join(scene.folder, "state");
  copyFileSync(daemonFile, file);
  const refuses = (reason: RegExp) => {
    const args = [file, "--socket", join(scene.folder, "s"), "--state", state];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
    equal([status, stdout, existsSync(state)], [78, "", false]);
    match(stderr, reason);
    match(stderr, /^procsupd: cannot make system calls .*; run npm install again .*\n$/);
  };
  refuses(/Cannot find module 'koffi'/);
  const installed = join(dirname(daemonFile), "../node_modules");
  const copied = join(scene.folder, "node_modules");
  cpSync(join(installed, "koffi"), join(copied, "koffi"), { recursive: true });
  refuses(/Cannot find the native Koffi module/);
  const platform = `@koromix/koffi-linux-${process.arch}`;
  cpSync(join(installed, platform), join(copied, platform), { recursive: true });
  for (const libc of ["linux", "musl"]) {
    writeFileSync(join(copied, platform, `${libc}_${process.arch}/koffi.node`), "no machine code");
  }
  refuses(/koffi\.node: /);
});

scenario("on a machine whose system calls it does not know it begins nothing", (scene) => {
  const state = join(scene.folder, "state");
  const preload = join(scene.folder, "preload.cjs");
  const koffi = JSON.stringify(join(dirname(daemonFile), "../node_modules/koffi"));
  const pretend = 'Object.defineProperty(process, "arch", { value: "riscv64" });';
  writeFileSync(preload, `require(${koffi});${pretend}`); // koffi itself is to load as ever
  const args = ["--require", preload, daemonFile, "--socket", join(scene.folder, "s")];
  const { status, stdout, stderr } = spawnSync(process.execPath, [...args, "--state", state], {
    encoding: "utf8",
    timeout: 5_000, // else it would serve
  });
  equal([status, stdout, existsSync(state)], [1, "", false]);
  match(stderr, /procsup runs on x64 and arm64: it knows no system call numbers of riscv64/);
});

scenario("flag beats environment beats file", async (scene) => {
  const config = join(scene.folder, "config.json");
  const inFile = join(scene.folder, "file.sock");
  const inEnv = join(scene.folder, "env.sock");
  writeFileSync(config, JSON.stringify({ socket: inFile, historyCount: 7, outputBytes: 70_000 }));
  const inBoth = { PROCSUP_SOCKET: inEnv, PROCSUP_OUTPUT_BYTES: "80000" };
  const env = { PROCSUP_CONFIG: config, ...inBoth };
  const byFlag = await startDaemon(scene, { env, state: join(scene.folder, "one") });
  const { limits } = await (await byFlag.connect()).info({});
  equal([limits["historyCount"], limits["outputBytes"]], [7, 80_000]);
  ok(existsSync(byFlag.socket));
  is(existsSync(inEnv), false);
});

// Root of no namespace has its places in /run and /var/lib, whatever the environment says.
const asUser = process.getuid?.() === 0 ? ["unshare", "--user", "--map-user=1000"] : [];
const noUser = whyNot([...asUser, "true"]);
/** Only the environment says where. */
const withoutFlags = [...asUser, "sh", "-c", 'exec "$1" "$2"', "sh"];

scenarioUnless(noUser, "a variable that is set to nothing counts as not set", async (scene) => {
  const { folder } = scene;
  const names = ["SOCKET", "STATE", "CONFIG", "CONTAINMENT", "LOG_LEVEL", "OUTPUT_BYTES"];
  const empty = Object.fromEntries(names.map((name) => [`PROCSUP_${name}`, ""]));
  const env = { ...empty, XDG_STATE_HOME: "", XDG_RUNTIME_DIR: folder };
  const places = {
    socket: join(folder, "procsup.sock"),
    state: join(folder, ".local/state/procsup"),
  };
  const prefix = ["env", "-C", folder, ...withoutFlags];
  const { log } = await startDaemon(scene, { prefix, env, ...places });
  const { socket, state } = JSON.parse(String(log.at(-1))) as Record<string, string>;
  equal({ socket, state }, places);
  const cases: [Record<string, string>, RegExp][] = [
    [{ HOME: "" }, /^procsupd: HOME is not set: say where to keep output with --state DIR$/],
    [{ XDG_RUNTIME_DIR: "" }, /^procsupd: XDG_RUNTIME_DIR is not set: say where to listen with/],
  ];
  for (const [more, why] of cases) {
    const daemon = launchDaemon(scene, { prefix, env: { ...env, ...more } });
    is(await daemon.exited, 78);
    await until("it says why", () => daemon.log.length > 0);
    match(daemon.log.join("\n"), why);
  }
});

scenario(
  "relative paths are those of where the daemon starts, for its processes too",
  async (scene) => {
    const prefix = ["env", "-C", scene.folder];
    const own = await startDaemon(scene, { prefix, socket: "own.sock", state: "own" });
    const { socket, state } = JSON.parse(String(own.log.at(-1))) as Record<string, string>;
    equal([socket, state], [join(scene.folder, "own.sock"), join(scene.folder, "own")]);
    const client = await connect({ socket: String(socket) });
    scene.after(() => client.close());
    const { id } = await client.spawn({ command: ["sh", "-c", "echo $PROCSUP_SOCKET"], cwd: "/" });
    await client.wait({ id });
    is((await client.logs({ id })).text, `${socket}\n`);
  },
);

scenario("client text can forge no log record", async (scene) => {
  const daemon = await startDaemon(scene);
  const raw = await daemon.raw();
  const evil = 'x\n{"level":"error","message":"forged"}\n<0>forged\u2028forged';
  await raw.ask(call("spawn", { command: [evil] }));
  await raw.ask(call("spawn", { command: ["/bin/sh", "-c", evil], name: "forger" }));
  daemon.child.kill("SIGTERM");
  await daemon.exited;
  for (const line of daemon.log) {
    const { message } = JSON.parse(line) as { message: string };
    match(message, /^(ready|audit|spawned|spawn failed|exited|terminated|stopping|stopped)$/);
  }
});

scenario(
  "no log line is lost at exit, with a line for each spawn, exit and termination",
  async (scene) => {
    const daemon = await startDaemon(scene);
    const client = await daemon.connect();
    const all = await Promise.all(
      Array.from({ length: 100 }, () => client.spawn({ command: ["sleep", "1000"] })),
    );
    daemon.child.kill("SIGTERM");
    is(await daemon.exited, 0);
    await until("the last line is read", () => logged(daemon.log, '"stopped"'));
    const lines = daemon.log.map((line) => JSON.parse(line) as Record<string, unknown>);
    for (const { id, pid } of all) {
      const own = lines.filter((line) => line["id"] === id);
      equal(
        own.map((line) => line["message"]),
        ["spawned", "audit", "terminated"],
      );
      equal([own[2]?.["pid"], own[2]?.["exit"]], [pid, "SIGTERM"]);
      is(typeof own[2]?.["durationMs"], "number");
    }
  },
);
