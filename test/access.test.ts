// Who may do what, with real users: the kernel says who calls, and what runs in their name.

import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import { containments } from "./cage.js";
import { call, type Daemon, onLines, programs, type Reply, startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenario, skipped, until } from "./scenario.js";

/** Users that every Debian has. */
const people = {
  root: "root",
  owner: "daemon",
  member: "games",
  admin: "www-data",
  barred: "nobody",
};
type Person = keyof typeof people;

/** A relay is a Node of its own: with both cores busy its start takes seconds. */
const ANSWER_LIMIT_MS = 12_000;

/** A connection of somebody's: asks, and takes the next answer. */
type Voice = { ask(method: string, params?: object): Promise<Reply>; next(): Promise<Reply> };

function voiceOf(scene: Scene, { socket }: Daemon, person: Person): Voice {
  const user = people[person];
  const argv = ["--reuid", user, "--regid", groupOf(user), "--init-groups", process.execPath];
  const relay = spawn("setpriv", [...argv, join(programs, "relays.mjs"), socket]);
  scene.after(() => void relay.kill("SIGKILL"));
  const next = answersOf(relay);
  return {
    next,
    ask(method, params = {}) {
      relay.stdin.write(`${JSON.stringify(call(method, params))}\n`);
      return next();
    },
  };
}

/** Events are not answers. */
function answersOf(relay: ChildProcessWithoutNullStreams): () => Promise<Reply> {
  const answers: Reply[] = [];
  onLines(relay.stdout, (line) => {
    const reply = JSON.parse(line) as Reply;
    if (reply.method === undefined) answers.push(reply);
  });
  return () => until("an answer", () => answers.shift(), ANSWER_LIMIT_MS);
}

function groupOf(user: string): string {
  return output(["id", "-g", user]).trim();
}

function output([file = "", ...args]: string[]): string {
  const { stdout, stderr, status } = spawnSync(file, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${file}: ${stderr}`);
  return stdout;
}

const settings = {
  adminGroup: "www-data",
  users: { nobody: { barred: true }, games: { processes: 2, spawnsPerMinute: 5 } },
};

/** A daemon of root that everybody may connect to. */
async function startForAll(scene: Scene, containment: string): Promise<Daemon> {
  const config = join(scene.folder, "config.json");
  writeFileSync(config, JSON.stringify(settings));
  const daemon = await startDaemon(scene, {
    args: ["--config", config, "--containment", containment],
  });
  chmodSync(scene.folder, 0o755);
  chmodSync(daemon.socket, 0o666);
  return daemon;
}

function outcome({ error }: Reply): string {
  return error === undefined ? "done" : String(error.data?.["kind"]);
}

/** Every method that names a process, gentle ones first; the last ends it. */
const methods: [string, object][] = [
  ["status", {}],
  ["logs", {}],
  ["usage", {}],
  ["wait", { timeoutMs: 0 }],
  ["subscribe", {}],
  ["signal", { signal: "SIGCONT" }],
  ["pause", {}],
  ["resume", {}],
  ["terminate", { dryRun: true }],
  ["terminate", { force: true }],
];

const callers = ["root", "owner", "member", "admin"] as const;
const mayTouch = {
  root: ["root", "owner", "member", "admin"],
  owner: ["owner"],
  member: ["member"],
  admin: ["root", "owner", "member", "admin"],
};

async function tryAll(owner: Voice, voice: Voice, who: string, mayDo: boolean): Promise<void> {
  const { result } = await owner.ask("spawn", { command: ["sleep", "1000"] });
  const pid = Number(result?.["pid"]);
  for (const [method, params] of methods) {
    const said = outcome(await voice.ask(method, { pid, ...params }));
    is(`${who}, ${method}: ${said}`, `${who}, ${method}: ${mayDo ? "done" : "permission_denied"}`);
  }
  is(isAlive(pid), !mayDo);
  await owner.ask("terminate", { pid, force: true });
}

if (process.getuid?.() !== 0) {
  skipped("callers control their own processes", "needs root, to call as other users");
} else {
  for (const containment of containments) play(containment);
}

function play(containment: string): void {
  scenario(
    `${containment}: everybody controls their own, root and administrators control all`,
    async (scene) => {
      const daemon = await startForAll(scene, containment);
      const voices = callers.map((person) => [person, voiceOf(scene, daemon, person)] as const);
      for (const [whose, owner] of voices) {
        for (const [caller, voice] of voices) {
          await tryAll(owner, voice, `${caller}, of ${whose}`, mayTouch[caller].includes(whose));
        }
      }
    },
    60_000,
  );

  scenario(`${containment}: everybody sees their own, and names are theirs`, async (scene) => {
    const daemon = await startForAll(scene, containment);
    const root = voiceOf(scene, daemon, "root");
    const owner = voiceOf(scene, daemon, "owner");
    const member = voiceOf(scene, daemon, "member");
    const request = { command: ["sleep", "1000"], name: "web" };
    const theirs = (await owner.ask("spawn", request)).result?.["id"];
    const others = (await member.ask("spawn", request)).result?.["id"];
    const idsSeen = async (voice: Voice) => {
      const { result = {} } = await voice.ask("list");
      return (result["processes"] as { id: string }[]).map((one) => one.id);
    };
    equal(await idsSeen(owner), [theirs]);
    equal(await idsSeen(member), [others]);
    equal(await idsSeen(root), [theirs, others]);
    is((await owner.ask("status", { name: "web" })).result?.["id"], theirs);
    is((await member.ask("status", { name: "web" })).result?.["id"], others);
    const counts = (await member.ask("info")).result?.["counts"] as Record<string, number>;
    is(counts["running"], 1);
    match(
      String((await root.ask("status", { name: "web" })).error?.message),
      /say which by its id/,
    );
    is(outcome(await owner.ask("spawn", { command: ["id"], user: "root" })), "permission_denied");
    const nobody = (await root.ask("spawn", { command: ["sleep", "9"], user: "nobody" })).result;
    is(nobody?.["user"], "nobody");
    await until("it runs as nobody", () => statSync(`/proc/${nobody?.["pid"]}`).uid === 65534);
    for (const id of [theirs, others, nobody?.["id"]]) await root.ask("terminate", { id });
  });

  scenario(`${containment}: who is barred is told so, and shares are kept`, async (scene) => {
    const daemon = await startForAll(scene, containment);
    const member = voiceOf(scene, daemon, "member");
    const start = (command: string[]) => member.ask("spawn", { command });
    equal(
      [outcome(await start(["sleep", "9"])), outcome(await start(["sleep", "9"]))],
      ["done", "done"],
    );
    const third = await start(["sleep", "9"]);
    equal([outcome(third), third.error?.data?.["limit"]], ["limit_exceeded", "processes"]);
    const { processes } = (await member.ask("list")).result as { processes: { id: string }[] };
    for (const { id } of processes) await member.ask("terminate", { id, force: true });
    for (let count = 0; count < 3; count++) {
      const { result } = await start(["true"]);
      await member.ask("wait", { id: result?.["id"] });
    }
    const sixth = await start(["true"]);
    equal([outcome(sixth), sixth.error?.data?.["limit"]], ["limit_exceeded", "spawnsPerMinute"]);
    const barred = await voiceOf(scene, daemon, "barred").next();
    equal([outcome(barred), barred.id], ["permission_denied", null]);
    const audits = daemon.log.filter((line) => line.includes('"audit"'));
    ok(
      audits.some((line) =>
        /"callerName":"games".*"method":"spawn".*"outcome":"limit_exceeded"/.test(line),
      ),
    );
    ok(audits.some((line) => /"callerUid":5.*"method":"terminate".*"outcome":"done"/.test(line)));
  });

  scenario(`${containment}: a command runs as its caller, and as nothing more`, async (scene) => {
    const daemon = await startForAll(scene, containment);
    const owner = voiceOf(scene, daemon, "owner");
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

  scenario(`${containment}: a caller gains nothing by what the daemon may do`, async (scene) => {
    const daemon = await startForAll(scene, containment);
    const owner = voiceOf(scene, daemon, "owner");
    const closed = join(scene.folder, "closed");
    mkdirSync(closed, { mode: 0o700 });
    writeFileSync(join(closed, "secret.sh"), "#!/bin/sh\necho secret\n", { mode: 0o755 });
    const refusedWith = async (command: string[], more: object) => {
      const { error } = await owner.ask("spawn", { command, ...more });
      return [error?.data?.["stage"], error?.data?.["errno"]];
    };
    equal(await refusedWith(["true"], { cwd: closed }), ["cwd", "EACCES"]);
    equal(await refusedWith(["secret.sh"], { env: { PATH: closed } }), ["command", "ENOENT"]);
    equal(await refusedWith([join(closed, "secret.sh")], {}), ["command", "ENOENT"]);

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
