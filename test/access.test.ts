// Who may do what, with real users, over both doors. As whom commands run is in run-as.test.ts.

import { spawn } from "node:child_process";
import { chmodSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import { containments } from "./cage.js";
import { call, type Daemon, exhaust, openRaw, type Reply, startDaemon } from "./daemon.js";
import { openWire, requestText } from "./http.js";
import {
  connectingAs,
  groupOf,
  outcome,
  output,
  overHttp,
  overLines,
  type Person,
  people,
  startForAll,
  type Voice,
} from "./people.js";
import { isAlive, type Scene, scenario, skipped, statFields, until } from "./scenario.js";

const doors = { lines: overLines, http: overHttp };
const bars = { nobody: { barred: true } };
const shares = { games: { processes: 2, spawnsPerMinute: 5 } };

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
    is(outcome(await owner.ask("list", { after: others })), "permission_denied");
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
}
