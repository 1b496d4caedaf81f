// The journal as a file: what it says when it is torn, damaged, old, full, removed or somebody else's.

import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  chownSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import type { Client } from "../client/client.js";
import { Refusal } from "../client/wire.js";
import { append, openJournal, readJournal } from "../daemon/life/journal.js";
import { encode } from "../daemon/life/records.js";
import { step } from "../daemon/life/state.js";
import type { Log } from "../daemon/runtime/log.js";
import { configFile, crash, type Daemon, launchDaemon, startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenario, skipped, until } from "./scenario.js";

const journals = resolve(import.meta.dirname, "../../test/journals");

function journalOf({ state }: Daemon): string {
  return join(state, "journal");
}

async function sleeper(client: Client): Promise<{ id: string; pid: number }> {
  const { id, pid } = await client.spawn({ command: ["sleep", "1000"] });
  return { id, pid: pid ?? 0 };
}

async function run(client: Client, command: string[]) {
  const { id } = await client.spawn({ command });
  return (await client.wait({ id })).process;
}

function noLog(): Log {
  const silent = () => {};
  const levels = { error: silent, warning: silent, info: silent, debug: silent };
  return { ...levels, flush: silent, setLevel: silent };
}

/** A journal at `path` that is due to be tidied up, and somebody in it who runs. */
function readUntidy(path: string) {
  const whole = readFileSync(join(journals, "version-1.journal"), "utf8");
  writeFileSync(path, `${whole}rubbish\n`);
  const read = readJournal(path);
  const [entry] = [...read.recorded.values()].filter(({ state }) => state.at === "running");
  if (entry === undefined) throw new Error("nobody runs in it");
  return { read, entry };
}

/** Stop it by the signal that ends its processes too. */
async function stop(daemon: Daemon): Promise<void> {
  daemon.child.kill("SIGTERM");
  is(await daemon.exited, 0);
}

scenario("a journal of version 1 says for ever what it said", () => {
  const { recorded, bad } = readJournal(join(journals, "version-1.journal"));
  const expected = JSON.parse(readFileSync(join(journals, "version-1.json"), "utf8")) as object;
  equal([Object.fromEntries(recorded), bad], [expected, []]);
});

scenario("a newer journal is refused with a sentence, and left as it is", async (scene) => {
  const state = join(scene.folder, "state");
  mkdirSync(state, { mode: 0o700 });
  writeFileSync(join(state, "journal"), encode({ journal: 2 }));
  const daemon = launchDaemon(scene, { state });
  is(await daemon.exited, 78);
  match(
    daemon.log.join("\n"),
    /journal .* has version 2, this procsup reads 1: start the procsup that/,
  );
  is(readFileSync(join(state, "journal"), "utf8"), encode({ journal: 2 }));
});

scenario("a torn end is dropped; any other bad line is named, skipped and kept", async (scene) => {
  const first = await startDaemon(scene);
  const before = await first.connect();
  const { id } = await sleeper(before);
  await crash(first);
  const path = journalOf(first);
  const lines = readFileSync(path, "utf8").split("\n");
  lines.splice(1, 0, "rubbish", `${lines[1]}`.replace('"sleep"', '"sleet"'));
  writeFileSync(path, lines.join("\n"));
  appendFileSync(path, '{"id":"p0123456');
  const second = await startDaemon(scene);
  const client = await second.connect();
  is((await client.status({ id })).status, "running");
  const named = second.log.filter((line) => line.includes("a line of the journal is left out"));
  const [one, other] = named.map((line) => JSON.parse(line) as Record<string, unknown>);
  equal([one?.["lineNumber"], one?.["reason"]], [2, "it is no whole line of a journal"]);
  equal([other?.["lineNumber"], other?.["reason"]], [3, "its checksum is wrong"]);
  is(named.length, 2);
  match(readFileSync(`${path}.damaged`, "utf8"), /rubbish/);
  await client.terminate({ id });
});

scenario("what has ended is known after a restart, and its output can be read", async (scene) => {
  const first = await startDaemon(scene);
  const before = await first.connect();
  const { id } = await run(before, ["sh", "-c", "echo said; exit 3"]);
  const was = await before.status({ id });
  const missing = await before.spawn({ command: ["/no/such"] }).catch((error: Refusal) => error);
  await stop(first);
  const client = await (await startDaemon(scene)).connect();
  equal(await client.status({ id }), was);
  is((await client.logs({ id })).text, "said\n");
  ok(missing instanceof Refusal);
  const failed = await client.status({ id: String(missing.facts["id"]) });
  equal([failed.status, failed.failure], ["failed", { stage: "command", errno: "ENOENT" }]);
});

scenario(
  "the history is bounded over restarts, and who falls out takes its files along",
  async (scene) => {
    const args = configFile(scene, { historyCount: 2 });
    const first = await startDaemon(scene, { args });
    const before = await first.connect();
    const ids: string[] = [];
    for (let count = 0; count < 4; count++) ids.push((await run(before, ["echo", "x"])).id);
    await crash(first);
    const second = await startDaemon(scene, { args });
    const client = await second.connect();
    const { processes } = await client.list({ all: true });
    equal(
      processes.map((one) => one.id),
      ids.slice(2),
    );
    const files = () => readdirSync(join(second.state, "output")).map((name) => name.split(".")[0]);
    equal([...new Set(files())].sort(), ids.slice(2).sort());
  },
);

scenario("who is found to have ended is the last to fall out of the history", async (scene) => {
  const args = configFile(scene, { historyCount: 3 });
  const first = await startDaemon(scene, { args });
  const before = await first.connect();
  const { id, pid } = await sleeper(before);
  for (let count = 0; count < 3; count++) await run(before, ["true"]);
  await crash(first);
  process.kill(pid, "SIGKILL");
  await until("it is gone", () => !isAlive(pid));
  const client = await (await startDaemon(scene, { args })).connect();
  const { processes } = await client.list({ all: true });
  equal([processes.length, processes[0]?.id, processes[0]?.status], [3, id, "exited"]);
});

scenario("a journal that has grown is tidied up, and loses nobody", async (scene) => {
  const args = configFile(scene, { historyCount: 2 });
  const first = await startDaemon(scene, { args });
  const before = await first.connect();
  const { id, pid } = await sleeper(before);
  const long = "x".repeat(100_000);
  const size = () => statSync(journalOf(first)).size;
  for (let count = 0; count < 15; count++) await run(before, ["true", long]);
  await until("it is tidied up", () => size() < 1_000_000);
  await crash(first);
  const client = await (await startDaemon(scene, { args })).connect();
  const { processes } = await client.list({ all: true });
  equal([processes.length, processes[0]?.id, processes[0]?.status], [3, id, "running"]);
  await client.terminate({ id });
  is(isAlive(pid), false);
});

scenario(
  "a state directory that is removed is made anew, with all that is known",
  async (scene) => {
    const first = await startDaemon(scene);
    const before = await first.connect();
    const old = await sleeper(before);
    rmSync(first.state, { recursive: true });
    const young = await sleeper(before);
    await until("that is told", () => first.log.some((line) => line.includes("was removed")));
    const rival = launchDaemon(scene, { socket: join(scene.folder, "rival"), state: first.state });
    is(await rival.exited, 78);
    await crash(first);
    const client = await (await startDaemon(scene)).connect();
    for (const { id, pid } of [old, young]) {
      const { status, members } = await client.status({ id });
      equal([status, members.map((one) => one.pid)], ["running", [pid]]);
      await client.terminate({ id });
    }
  },
);

scenario("the line that sets off a tidying up is not lost by it", async (scene) => {
  const path = join(scene.folder, "journal");
  const { read, entry } = readUntidy(path);
  const current = () => read.recorded.values();
  const journal = openJournal({ path, log: noLog(), current, reclaim: () => {} }, read);
  const event = { on: "stopAsked", nowMs: 2_000, graceMs: 5 } as const;
  is(append(journal, { id: entry.id, events: [event] }), null);
  entry.state = step(entry.state, event);
  await until("it is tidied up", () => !readFileSync(path, "utf8").includes("rubbish"));
  is(readJournal(path).recorded.get(entry.id)?.state.at, "stopping");
});

scenario("of a torn end nothing is left in the file once it is gone on with", (scene) => {
  const path = join(scene.folder, "journal");
  const whole = readFileSync(join(journals, "version-1.journal"));
  writeFileSync(path, whole);
  appendFileSync(path, "x".repeat(10_000));
  openJournal({ path, log: noLog(), current: () => [], reclaim: () => {} }, readJournal(path));
  equal(readFileSync(path), whole);
});

scenario(
  "what befalls a process while the journal is tidied up is in the new one",
  async (scene) => {
    const path = join(scene.folder, "journal");
    const { read, entry } = readUntidy(path);
    const { id, spec } = entry;
    const many = Array.from({ length: 20_000 }, (_, at) => `pf${String(at).padStart(11, "0")}`);
    const current = () => [entry, ...many.map((other) => ({ ...entry, id: other }))];
    const journal = openJournal({ path, log: noLog(), current, reclaim: () => {} }, read);
    is(append(journal, { id, spec, state: entry.state }), null);
    while (!journal.draft?.held.has(id)) await new Promise(setImmediate);
    const event = { on: "stopAsked", nowMs: 2_000, graceMs: 5 } as const;
    is(append(journal, { id, events: [event] }), null);
    entry.state = step(entry.state, event);
    await until("it is tidied up", () => journal.draft === null);
    const { recorded } = readJournal(path);
    equal([recorded.size, recorded.get(id)?.state.at], [many.length + 1, "stopping"]);
  },
);

const mounts = "needs root, to mount a file system of its own";
const full = "a full disk stops new processes only, and passes";
const both = "a journal removed on a full disk is written anew once there is room";
const owned = "a state directory of somebody else is refused";

if (process.getuid?.() !== 0) {
  skipped(full, mounts);
  skipped(both, mounts);
  skipped(owned, "needs root, to give a directory away");
} else {
  const small = (scene: Scene) => {
    const folder = join(scene.folder, "full");
    mkdirSync(folder, { mode: 0o700 });
    mount("mount", "-t", "tmpfs", "-o", "size=128k,mode=700", "tmpfs", folder);
    scene.after(() => mount("umount", "--lazy", folder));
    return folder;
  };

  scenario(full, async (scene) => {
    const state = small(scene);
    const first = await startDaemon(scene, { state });
    const before = await first.connect();
    const { id, pid } = await sleeper(before);
    const ballast = join(state, "ballast");
    await until("it is full", async () => {
      fill(ballast);
      const refused = await sleeper(before).catch((error: unknown) => error);
      return refused instanceof Refusal && refused.facts["stage"] === "journal" && refused;
    }).then(({ kind, facts }) => equal([kind, facts["errno"]], ["spawn_failed", "ENOSPC"]));
    is((await before.status({ id })).members.length, 1);
    is((await before.terminate({ id })).success, true);
    is(isAlive(pid), false);
    rmSync(ballast);
    const young = await until("it passes", () => sleeper(before).catch(() => null));
    await until("that is told", () => first.log.some((line) => line.includes("written again")));
    await crash(first);
    const client = await (await startDaemon(scene, { state })).connect();
    const was = await client.status({ id });
    equal([was.status, was.signal], ["terminated", "SIGTERM"]);
    is((await client.status({ id: young.id })).status, "running");
    await client.terminate({ id: young.id });
  });

  scenario(both, async (scene) => {
    const folder = small(scene);
    const path = join(folder, "journal");
    const { read, entry } = readUntidy(path);
    const current = () => [entry];
    const journal = openJournal({ path, log: noLog(), current, reclaim: () => {} }, read);
    rmSync(path);
    const ballast = join(folder, "ballast");
    fill(ballast);
    is(append(journal, entry), "ENOSPC");
    rmSync(ballast);
    await until("it can be written", () => append(journal, entry) === null);
    equal([...readJournal(path).recorded.keys()], [entry.id]);
  });

  scenario(owned, async (scene) => {
    const state = join(scene.folder, "state");
    mkdirSync(state, { mode: 0o700 });
    chownSync(state, 65534, 65534);
    const daemon = launchDaemon(scene, { state });
    is(await daemon.exited, 78);
    match(daemon.log.join("\n"), /belongs to uid 65534, not to 0: chown 0 .*, or choose another/);
  });
}

function mount(...argv: string[]): void {
  const [file = "", ...args] = argv;
  const { status, stderr } = spawnSync(file, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${argv.join(" ")}: ${stderr}`);
}

/** Append to a file until the file system has no room left. */
function fill(path: string): void {
  for (const size of [65536, 4096]) {
    try {
      for (;;) appendFileSync(path, Buffer.alloc(size));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
    }
  }
}
