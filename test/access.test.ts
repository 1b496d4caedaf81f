// Who may do what, with real users, over both doors: the kernel says who calls, and what runs in their name.

import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import { containments } from "./cage.js";
import { call, type Daemon, exhaust, openRaw, type Reply, startDaemon } from "./daemon.js";
import { openWire, requestText } from "./http.js";
import { isAlive, type Scene, scenario, skipped, statFields, until } from "./scenario.js";

/** Users that every Debian has. */
const people = {
  root: "root",
  owner: "daemon",
  member: "games",
  admin: "www-data",
  barred: "nobody",
};
type Person = keyof typeof people;

/**
 * Run `connect`, which calls connect(2) before it returns, as somebody else. It is root's process again
 * when anything is said: what counts is who connected. `more` are groups. man 7 unix, SO_PEERCRED.
 */
function connectingAs<T>(person: Person, connect: () => T, ...more: number[]): T {
  const user = people[person];
  const groups = process.getgroups?.() ?? [];
  process.setgroups?.([...output(["id", "-G", user]).trim().split(" ").map(Number), ...more]);
  process.setegid?.(Number(groupOf(user)));
  process.seteuid?.(user);
  try {
    return connect();
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
    process.setgroups?.(groups);
  }
}

/** A connection of somebody's. */
type Voice = {
  ask(method: string, params?: object): Promise<Reply>;
  /** The last of the matrix: over HTTP it is the contract's own route. */
  kill(pid: number): Promise<string>;
};

async function overLines(scene: Scene, { socket }: Daemon, person: Person): Promise<Voice> {
  const raw = await connectingAs(person, () => openRaw(scene, socket));
  const ask = async (method: string, params: object = {}) => {
    raw.write(`${JSON.stringify(call(method, params))}\n`);
    for (;;) {
      const reply = await raw.next();
      if (reply.method === undefined) return reply; // events are no answers
    }
  };
  return { ask, kill: async (pid) => outcome(await ask("terminate", { pid, force: true })) };
}

async function overHttp(scene: Scene, { socket }: Daemon, person: Person): Promise<Voice> {
  const wire = await connectingAs(person, () => openWire(scene, socket));
  const post = (path: string, value: object) => {
    wire.socket.write(requestText(`POST ${path}`, JSON.stringify(value)));
    return wire.next();
  };
  return {
    async ask(method, params = {}) {
      const { status, text } = await post("/rpc", call(method, params));
      is(status, 200);
      return JSON.parse(text) as Reply;
    },
    async kill(pid) {
      const path = `/api/processes/terminate/${pid}`;
      const { status, headers, text } = await post(path, { force: true });
      return routeOutcomes[`${status} ${headers["procsup-kind"]}`] ?? `${status} ${text}`;
    },
  };
}

const doors = { lines: overLines, http: overHttp };
const routeOutcomes: Record<string, string> = {
  "200 undefined": "done",
  "403 permission_denied": "permission_denied",
};

function groupOf(user: string): string {
  return output(["id", "-g", user]).trim();
}

function output([file = "", ...args]: string[]): string {
  const { stdout, stderr, status } = spawnSync(file, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${file}: ${stderr}`);
  return stdout;
}

const bars = { nobody: { barred: true } };
const shares = { games: { processes: 2, spawnsPerMinute: 5 } };

/** A daemon of root that everybody may connect to. */
async function startForAll(scene: Scene, containment: string, users: object): Promise<Daemon> {
  const config = join(scene.folder, "config.json");
  writeFileSync(config, JSON.stringify({ adminGroup: "www-data", users }));
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

/** Every method that names a process and ends none; at last each is killed. */
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
];

const callers = ["root", "owner", "member", "admin"] as const;
type Caller = (typeof callers)[number];
const mayTouch: Record<Caller, readonly Caller[]> = {
  root: callers,
  owner: ["owner"],
  member: ["member"],
  admin: callers,
};

type Cell = { door: string; caller: Caller; voice: Voice };

async function openCells(scene: Scene, daemon: Daemon): Promise<Cell[]> {
  const cells: Cell[] = [];
  for (const [door, open] of Object.entries(doors)) {
    for (const caller of callers) {
      cells.push({ door, caller, voice: await open(scene, daemon, caller) });
    }
  }
  return cells;
}

async function tryAll(pid: number, whose: Caller, { door, caller, voice }: Cell): Promise<void> {
  const mayDo = mayTouch[caller].includes(whose);
  const expected = (method: string) => {
    if (!mayDo) return "permission_denied";
    return method === "subscribe" && door === "http" ? "invalid_request" : "done";
  };
  const who = `${caller} over ${door}, of ${whose}`;
  for (const [method, params] of methods) {
    const said = outcome(await voice.ask(method, { pid, ...params }));
    is(`${who}, ${method}: ${said}`, `${who}, ${method}: ${expected(method)}`);
  }
  is(`${who}, kill: ${await voice.kill(pid)}`, `${who}, kill: ${expected("kill")}`);
  is(isAlive(pid), !mayDo);
}

async function start({ ask }: Voice): Promise<number> {
  return Number((await ask("spawn", { command: ["sleep", "1000"] })).result?.["pid"]);
}

/** Somebody's process that bears this daemon's mark and belongs to nothing that it knows. */
function leaveStray(scene: Scene, daemon: Daemon, person: Person): number {
  const user = people[person];
  return leaveMarked(scene, daemon, ["--reuid", user, "--regid", groupOf(user), "--init-groups"]);
}

/** The same, as whoever `setpriv` makes it. */
function leaveMarked(scene: Scene, { socket }: Daemon, as: string[]): number {
  const argv = [...as, "sleep", "1000"];
  const env = { PATH: process.env["PATH"] ?? "", PROCSUP_ID: "p1", PROCSUP_SOCKET: socket };
  const stray = spawn("setpriv", argv, { env, stdio: "ignore" });
  scene.after(() => void stray.kill("SIGKILL"));
  return stray.pid ?? 0;
}

function numbersOf(field: "processes" | "strays", { result = {} }: Reply): number[] {
  return (result[field] as { pid: number }[]).map(({ pid }) => pid).sort((a, b) => a - b);
}

if (process.getuid?.() !== 0) {
  skipped("callers control their own processes", "needs root, to call as other users");
} else {
  for (const containment of containments) play(containment);

  scenario("a daemon of root lets in the group procsup, where there is one", async (scene) => {
    const GID = 54321;
    const groups = join(scene.folder, "group");
    writeFileSync(groups, `${readFileSync("/etc/group", "utf8")}procsup:x:${GID}:\n`);
    const mount = 'mount --bind "$0" /etc/group && exec "$@"';
    const daemon = await startDaemon(scene, {
      prefix: ["unshare", "-m", "sh", "-c", mount, groups],
    });
    chmodSync(scene.folder, 0o755);
    const { uid, gid, mode } = statSync(daemon.socket);
    equal([uid, gid, mode & 0o777], [0, GID, 0o660]);
    const member = await connectingAs("member", () => openRaw(scene, daemon.socket), GID);
    is((await member.ask(call("spawn", { command: ["true"] }))).result?.["user"], "games");
    const stranger = connectingAs("member", () => openRaw(scene, daemon.socket));
    is(await stranger.catch((error: NodeJS.ErrnoException) => error.code), "EACCES");
  });

  scenario("group: a sign forged by another user claims nobody", async (scene) => {
    const daemon = await startForAll(scene, "group", bars);
    const owner = await overLines(scene, daemon, "owner");
    const { result = {} } = await owner.ask("spawn", { command: ["sleep", "1000"] });
    // What everybody can read.
    const limits = readFileSync(`/proc/${result["pid"]}/limits`, "utf8");
    const tag = /^Max file locks +(\d+)/m.exec(limits)?.[1];
    const env = {
      PATH: process.env["PATH"] ?? "",
      PROCSUP_ID: String(result["id"]),
      PROCSUP_SOCKET: daemon.socket,
    };
    const forgers = [["prlimit", `--locks=${tag}:`], ["env"]].map((forge) => {
      const argv = ["--reuid", people.member, "--clear-groups", ...forge, "sleep", "1000"];
      const forger = spawn("setpriv", argv, { env, stdio: "ignore" });
      scene.after(() => void forger.kill("SIGKILL"));
      return forger.pid ?? 0;
    });
    for (const pid of forgers) {
      const name = () => readFileSync(`/proc/${pid}/comm`, "utf8");
      await until("the forger sleeps", () => name() === "sleep\n");
    }
    const ended = (await owner.ask("terminate", { id: result["id"], force: true })).result?.[
      "ended"
    ];
    equal([ended, ...forgers.map((pid) => statFields(pid)?.[0])], [1, "S", "S"]);
  });

  scenario("a lease on a caller's own command holds up nobody else", async (scene) => {
    const daemon = await startForAll(scene, "group", bars);
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
  scenario(
    `${containment}: everybody controls their own, root and administrators control all`,
    async (scene) => {
      const daemon = await startForAll(scene, containment, bars);
      const cells = await openCells(scene, daemon);
      for (const { caller: whose, voice: owner } of cells.slice(0, callers.length)) {
        const pids: number[] = [];
        for (const _ of cells) pids.push(await start(owner));
        // At once, since a first `usage` looks for a quarter of a second.
        await Promise.all(cells.map((cell, at) => tryAll(pids[at] ?? 0, whose, cell)));
        for (const pid of pids) await owner.ask("terminate", { pid, force: true });
      }
    },
    60_000,
  );

  scenario(`${containment}: list, info and strays show what one controls`, async (scene) => {
    const daemon = await startForAll(scene, containment, bars);
    const cells = await openCells(scene, daemon);
    const pids = {} as Record<Caller, number>;
    const strays = {} as Record<Caller, number>;
    for (const { caller, voice } of cells.slice(0, callers.length)) {
      pids[caller] = await start(voice);
      strays[caller] = leaveStray(scene, daemon, caller);
    }
    // Of root, acting as the member: whose it is, the real user says.
    const acting = leaveMarked(scene, daemon, ["--ruid", people.root, "--euid", people.member]);
    for (const { caller } of cells) {
      const uid = Number(output(["id", "-u", people[caller]]));
      await until("the stray is theirs", () => statSync(`/proc/${strays[caller]}`).uid === uid);
      await until(
        "the stray sleeps",
        () => output(["ps", "-o", "comm=", "-p", `${strays[caller]}`]) === "sleep\n",
      );
    }
    await until("it acts as the member", () => {
      return statSync(`/proc/${acting}`).uid === Number(output(["id", "-u", people.member]));
    });
    for (const { door, caller, voice } of cells) {
      const ordered = (numbers: number[]) => numbers.sort((a, b) => a - b);
      const seen = (all: Record<Caller, number>) =>
        ordered(mayTouch[caller].map((whose) => all[whose]));
      const who = `${caller} over ${door}`;
      equal(numbersOf("processes", await voice.ask("list")), seen(pids), `${who}, list`);
      const others = mayTouch[caller].includes("root") ? [acting] : [];
      const seenStrays = ordered([...seen(strays), ...others]);
      equal(numbersOf("strays", await voice.ask("strays")), seenStrays, `${who}, strays`);
      const { result = {} } = await voice.ask("info");
      const { running } = result["counts"] as Record<string, number>;
      const told = [running, result["strays"]];
      equal(told, [seen(pids).length, seenStrays.length], `${who}, info`);
    }
    const member = cells.find(({ caller, door }) => caller === "member" && door === "http");
    is((await member?.voice.ask("strays", { end: true, force: true }))?.result?.["ended"], 1);
    equal(
      [...callers.map((caller) => isAlive(strays[caller])), isAlive(acting)],
      [true, true, false, true, true],
    );
  });

  scenario(`${containment}: names are everybody's own`, async (scene) => {
    const daemon = await startForAll(scene, containment, bars);
    const root = await overLines(scene, daemon, "root");
    const owner = await overLines(scene, daemon, "owner");
    const member = await overHttp(scene, daemon, "member");
    const request = { command: ["sleep", "1000"], name: "web" };
    const theirs = (await owner.ask("spawn", request)).result?.["id"];
    const others = (await member.ask("spawn", request)).result?.["id"];
    is((await owner.ask("status", { name: "web" })).result?.["id"], theirs);
    is((await member.ask("status", { name: "web" })).result?.["id"], others);
    match(
      String((await root.ask("status", { name: "web" })).error?.message),
      /say which by its id/,
    );
    for (const voice of [owner, member]) {
      is(outcome(await voice.ask("spawn", { command: ["id"], user: "root" })), "permission_denied");
    }
    const nobody = (await root.ask("spawn", { command: ["sleep", "9"], user: "nobody" })).result;
    is(nobody?.["user"], "nobody");
    await until("it runs as nobody", () => statSync(`/proc/${nobody?.["pid"]}`).uid === 65534);
    for (const id of [theirs, others, nobody?.["id"]]) await root.ask("terminate", { id });
  });

  scenario(`${containment}: who is barred is told so, and shares are kept`, async (scene) => {
    const daemon = await startForAll(scene, containment, { ...bars, ...shares });
    const member = await overLines(scene, daemon, "member");
    const run = (command: string[]) => member.ask("spawn", { command });
    equal(
      [outcome(await run(["sleep", "9"])), outcome(await run(["sleep", "9"]))],
      ["done", "done"],
    );
    const third = await run(["sleep", "9"]);
    equal([outcome(third), third.error?.data?.["limit"]], ["limit_exceeded", "processes"]);
    const { processes } = (await member.ask("list")).result as { processes: { id: string }[] };
    for (const { id } of processes) await member.ask("terminate", { id, force: true });
    for (let count = 0; count < 3; count++) {
      const { result } = await run(["true"]);
      await member.ask("wait", { id: result?.["id"] });
    }
    const sixth = await run(["true"]);
    equal([outcome(sixth), sixth.error?.data?.["limit"]], ["limit_exceeded", "spawnsPerMinute"]);
    const overLine = await connectingAs("barred", () => openRaw(scene, daemon.socket));
    const barred = await overLine.next();
    equal([outcome(barred), barred.id], ["permission_denied", null]);
    const wire = await connectingAs("barred", () => openWire(scene, daemon.socket));
    wire.socket.write(requestText("GET /healthz"));
    const { status, text } = await wire.next();
    const told = { error: barred.error?.message };
    equal([status, JSON.parse(text)], [403, told]);
    const audits = daemon.log.filter((line) => line.includes('"audit"'));
    ok(
      audits.some((line) =>
        /"callerName":"games".*"method":"spawn".*"outcome":"limit_exceeded"/.test(line),
      ),
    );
    ok(audits.some((line) => /"callerName":"nobody".*"method":"connect"/.test(line)));
    ok(audits.some((line) => /"callerUid":5.*"method":"terminate".*"outcome":"done"/.test(line)));
  });

  scenario(
    `${containment}: without a descriptor left nobody is let in as a stranger`,
    async (scene) => {
      const daemon = await startForAll(scene, containment, bars);
      const root = await overLines(scene, daemon, "root");
      is(outcome(await root.ask("info")), "done");
      const lift = await exhaust(daemon, 1);
      const unknown = await connectingAs("barred", () => openRaw(scene, daemon.socket));
      const { error } = await unknown.next();
      equal([error?.data?.["kind"], error?.data?.["limit"]], ["limit_exceeded", "descriptors"]);
      await unknown.ended;
      is(outcome(await root.ask("info")), "done");
      lift();
      const barred = await connectingAs("barred", () => openRaw(scene, daemon.socket));
      is(outcome(await barred.next()), "permission_denied");
    },
  );

  scenario(`${containment}: a command runs as its caller, and as nothing more`, async (scene) => {
    const daemon = await startForAll(scene, containment, bars);
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

  scenario(`${containment}: a caller gains nothing by what the daemon may do`, async (scene) => {
    const daemon = await startForAll(scene, containment, bars);
    const owner = await overLines(scene, daemon, "owner");
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
