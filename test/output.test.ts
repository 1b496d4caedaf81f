// Output files and their cap: which bytes are kept, where reading begins, what followers are sent.

import { spawnSync } from "node:child_process";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import type { Client, Event } from "../client/client.js";
import { limits } from "../client/wire.js";
import { capOutput } from "../daemon/output/cap.js";
import type { OutputFolder } from "../daemon/output/output.js";
import { readOutput } from "../daemon/output/reading.js";
import { createLatch, leaseOn, leasing, refusalOf } from "./commands.js";
import { call, type Daemon, type StartOptions, startDaemon } from "./daemon.js";
import {
  bearers,
  type Scene,
  scenario,
  scenarioUnless,
  statFields,
  until,
  whyNot,
  within,
} from "./scenario.js";

const CAP = 1024 * 1024;
/** What a file system may take beside the data, to know where it lies. */
const TREE_BYTES = 16 * 1024;
/** Of what is below the cap, so much may be gone: a step of the cap, and a line in part. */
const LEAST_KEPT = 0.8 * CAP;

/** Lines of ten bytes, each saying its place: line N begins at byte 10 N. */
const numbered = (from: number, to: number) => `seq -f %09.0f ${from} ${to}`;
const LINES = 1_000_000;

function startCapped(scene: Scene, options: StartOptions = {}): Promise<Daemon> {
  return startDaemon(scene, { ...options, args: ["--output-bytes", String(CAP)] });
}

async function spawnShell(client: Client, script: string): Promise<string> {
  return (await client.spawn({ command: ["sh", "-c", script] })).id;
}

/** What lies on the disk, as the kernel has it; `root` is where the daemon sees it. */
function fileOf({ state, pid }: Daemon, id: string) {
  const path = join(`/proc/${pid}/root`, state, "output", `${id}.stdout`);
  const { size, blocks, ino } = statSync(path);
  return { path, size, diskBytes: blocks * 512, ino };
}

async function untilCapped(daemon: Daemon, id: string, size: number): Promise<void> {
  await until("all is written", () => fileOf(daemon, id).size === size, 12_000);
  const isCapped = () => fileOf(daemon, id).diskBytes <= CAP + TREE_BYTES;
  await until("the cap holds", isCapped, 12_000);
}

/** Every whole line of the text says the place at which it was told to be. */
function isInPlace(text: string, from: number): void {
  is(from % 10, 0);
  for (const [at, line] of text.split("\n").slice(0, -1).entries()) {
    if (Number(line) !== from / 10 + at || line.length !== 9) {
      throw new Error(`at byte ${from + 10 * at}: ${JSON.stringify(line)}`);
    }
  }
}

scenario("the cap frees the oldest bytes, and offsets stay what they were", async (scene) => {
  const daemon = await startCapped(scene);
  const client = await daemon.connect();
  const latch = createLatch(scene);
  const more = numbered(LINES, 2 * LINES - 1);
  const id = await spawnShell(client, `${numbered(0, LINES - 1)}; read _ <${latch.path}; ${more}`);
  for (const size of [10 * LINES, 20 * LINES]) {
    await untilCapped(daemon, id, size);
    const { text, from, next, oldest } = await client.logs({ id, from: 0 });
    equal([from, next], [oldest, oldest + text.length]);
    ok(size - oldest <= CAP && size - oldest >= LEAST_KEPT, `${size - oldest} bytes are kept`);
    isInPlace(text, from);
    const later = size - 123_450;
    const slice = await client.logs({ id, from: later });
    equal([slice.from, slice.oldest], [later, oldest]);
    isInPlace(slice.text, later);
    const last = await client.logs({ id, tailLines: 2 });
    equal([last.from, last.next, last.oldest], [size - 20, size, oldest]);
    isInPlace(last.text, last.from);
    is((await client.logs({ id, from: oldest - 7 })).from, oldest);
    latch.open();
  }
  const { ended, next } = await until("it has ended", async () => {
    const slice = await client.logs({ id, tailLines: 1 });
    return slice.ended ? slice : null;
  });
  equal([ended, next], [true, 20 * LINES]);
});

scenario("output that its command empties begins anew, and is capped anew", async (scene) => {
  const daemon = await startCapped(scene);
  const client = await daemon.connect();
  const latch = createLatch(scene);
  const wait = `read -r _ <${latch.path}`;
  // 10 MB, emptied and written again: shorter than before, and more than the cap.
  const begin = `echo begun >/dev/stdout; ${wait}; ${numbered(0, LINES / 2)}`;
  const id = await spawnShell(client, `${numbered(0, LINES - 1)}; ${wait}; ${begin}; ${wait}`);
  await untilCapped(daemon, id, 10 * LINES);
  const heard: [string, number][] = [];
  client.onEvent((event) => {
    if (event.event === "output") heard.push([event.text, event.from]);
  });
  await client.subscribe({ id, output: true });
  latch.open();
  await until("its follower goes on", () => heard.length > 0);
  equal(heard, [["begun\n", 0]]);
  equal((await client.logs({ id })).text, "begun\n");
  latch.open();
  await untilCapped(daemon, id, "begun\n".length + 5 * LINES + 10);
});

scenario("a process that ends before anybody has looked is capped all the same", async (scene) => {
  const daemon = await startCapped(scene);
  const client = await daemon.connect();
  const id = await spawnShell(client, numbered(0, LINES / 2 - 1));
  await client.wait({ id });
  await untilCapped(daemon, id, 5 * LINES);
  const { text, from, oldest } = await client.logs({ id });
  is(from, oldest);
  ok(text.length > 0 && from >= 5 * LINES - CAP);
  isInPlace(text, from);
});

scenario("a daemon that knows nothing learns from the file where reading begins", async (scene) => {
  const daemon = await startCapped(scene);
  const client = await daemon.connect();
  const id = await spawnShell(client, `${numbered(0, LINES - 1)}; exec sleep 1000`);
  await untilCapped(daemon, id, 10 * LINES);
  const { oldest, text } = await client.logs({ id });
  ok(oldest > 0);
  daemon.child.kill("SIGKILL");
  await daemon.exited;
  const folder = stranger(join(daemon.state, "output"));
  const slice = await readOutput(folder, id, "stdout", { maxBytes: text.length }, true);
  equal([slice.from, slice.oldest, slice.text], [oldest, oldest, text]);
  for (const pid of bearers(scene.folder)) process.kill(pid, "SIGKILL");
});

/** Of another process than the one that has capped it. */
function stranger(path: string): OutputFolder {
  const silent = () => {};
  const log = { error: silent, warning: silent, info: silent, debug: silent };
  const rest = { flush: silent, setLevel: silent };
  return { path, capBytes: CAP, punches: true, freed: new Map(), log: { ...log, ...rest } };
}

scenario("a cap put on a file that exists takes hold, and again after a rest", async (scene) => {
  const folder = stranger(scene.folder);
  const id = "p0123456789ab";
  const path = join(scene.folder, `${id}.stdout`);
  const isCapped = () => statSync(path).blocks * 512 <= CAP + TREE_BYTES;
  writeFileSync(path, Buffer.alloc(4 * CAP, "0123456789\n"));
  const stop = capOutput(folder, id);
  await until("what was there is capped", isCapped);
  await until("it rests", () => isWatched(process.pid, statSync(path).ino));
  writeFileSync(path, Buffer.alloc(4 * CAP, "0123456789\n"), { flag: "a" });
  await until("what came later is capped", isCapped);
  await until("it rests again", () => isWatched(process.pid, statSync(path).ino));
  stop();
  is(isWatched(process.pid, statSync(path).ino), false);
  is(statSync(path).size, 8 * CAP);
});

/** As /proc/PID/fdinfo lists it. man 5 proc_pid_fdinfo. */
function isWatched(pid: number, inode: number): boolean {
  const mark = ` ino:${inode.toString(16)} `;
  return spawnSync("grep", ["-rqs", mark, `/proc/${pid}/fdinfo`]).status === 0;
}

scenario("the cap waits for no lease, and takes hold once it is given up", async (scene) => {
  const daemon = await startCapped(scene);
  const client = await daemon.connect();
  const latch = createLatch(scene);
  const { id } = await client.spawn({ command: leasing(4 * CAP, latch) });
  const size = Math.floor((4 * CAP) / 10) * 10;
  await until("it has written under its lease", () => fileOf(daemon, id).size === size);
  const { path } = fileOf(daemon, id);
  await until("the cap has met the lease", () => leaseOn(path) === "BREAKING");
  const other = await spawnShell(client, `${numbered(0, LINES - 1)}; exec sleep 1000`);
  await untilCapped(daemon, other, 10 * LINES);
  is(leaseOn(path), "BREAKING");
  ok(fileOf(daemon, id).diskBytes >= size);
  latch.open();
  await untilCapped(daemon, id, size);
});

scenario("a stream at rest is watched, and a busy one is not", async (scene) => {
  const daemon = await startCapped(scene);
  const client = await daemon.connect();
  const latch = createLatch(scene);
  const busy = `while ! [ -e ${scene.folder}/enough ]; do echo 123456789; done`;
  const id = await spawnShell(client, `echo; read _ <${latch.path}; ${busy}; exec sleep 1000`);
  const { ino } = await until("it is there", () => fileOf(daemon, id));
  await until("it is watched", () => isWatched(daemon.pid, ino));
  latch.open();
  await until("it is not", () => !isWatched(daemon.pid, ino));
  writeFileSync(join(scene.folder, "enough"), "");
  await until("it is watched again", () => isWatched(daemon.pid, ino));
});

scenario("the last lines of a huge file are found without reading it", async (scene) => {
  const daemon = await startCapped(scene);
  const client = await daemon.connect();
  const before = 190_000_000;
  const script = `yes 123456789 | head -c ${before}; ${numbered(0, LINES - 1)}; exec sleep 1000`;
  const id = await spawnShell(client, script);
  await untilCapped(daemon, id, before + 10 * LINES);
  const readBefore = bytesRead(daemon.pid);
  const few = await client.logs({ id, tailLines: 3 });
  is(few.text, "000999997\n000999998\n000999999\n");
  const all = await client.logs({ id, tailLines: 1e9 });
  equal([all.from, all.oldest], [few.oldest, few.oldest]);
  isInPlace(all.text, all.from - before);
  ok(bytesRead(daemon.pid) - readBefore < 2 * CAP);
});

/** Whatever passed through read(2) and its like. man 5 proc_pid_io. */
function bytesRead(pid: number): number {
  return Number(/^rchar: (\d+)/.exec(readFileSync(`/proc/${pid}/io`, "latin1"))?.[1]);
}

scenario("output without lines begins at a whole character", async (scene) => {
  const daemon = await startCapped(scene);
  const client = await daemon.connect();
  const script = "yes é€😀 | head -c 4000000 | tr -d '\\n'; echo; exec sleep 1000";
  const id = await spawnShell(client, script);
  await untilCapped(daemon, id, 3_600_001);
  const { text, oldest } = await client.logs({ id, maxBytes: 90_000 });
  ok(oldest > 0);
  match(text, /^(€😀|😀)?(é€😀)+(é€|é)?$/u);
});

// --- following ------------------------------------------------------------------------------

type Output = Extract<Event, { event: "output" }>;

scenario("a reader that falls behind the cap is told how many bytes it missed", async (scene) => {
  const daemon = await startCapped(scene);
  const client = await daemon.connect();
  const latch = createLatch(scene);
  const script = `read _ <${latch.path}; ${numbered(0, LINES - 1)}; exec sleep 1000`;
  const id = await spawnShell(client, script);
  const events: Output[] = [];
  client.onEvent((event) => void (event.event === "output" && events.push(event)));
  const slow = await daemon.raw();
  for (const reader of [slow, await daemon.raw()]) {
    await reader.ask(call("subscribe", { id, output: true }));
  }
  await client.subscribe({ id, output: true });
  slow.socket.pause();
  latch.open();
  await untilCapped(daemon, id, 10 * LINES);
  slow.socket.resume();
  const late: Output[] = [];
  while (late.at(-1)?.next !== 10 * LINES) late.push((await slow.next()).params as Output);
  await until("the quick one has all", () => events.at(-1)?.next === 10 * LINES);
  for (const told of [late, events]) {
    let next = 0;
    let whole = { from: 0, text: "" };
    for (const event of told) {
      is(event.from - event.missed, next);
      is(event.text.length, event.next - event.from);
      next = event.next;
      // A writer that stands still in a line is told of in parts.
      if (event.missed === 0) whole.text += event.text;
      else {
        isInPlace(whole.text, whole.from);
        whole = { from: event.from, text: event.text };
      }
    }
    isInPlace(whole.text, whole.from);
  }
  const missed = late.reduce((sum, event) => sum + event.missed, 0);
  const heard = late.reduce((sum, event) => sum + event.text.length, 0);
  ok(missed > 0);
  is(missed + heard, 10 * LINES);
});

scenario("a follower is told whole lines, and a line that stays unfinished", async (scene) => {
  const client = await (await startDaemon(scene)).connect();
  const latch = createLatch(scene);
  const script = `read _ <${latch.path}; printf 'one\\ntwo\\nthr'; read _ <${latch.path}; echo ee`;
  const id = await spawnShell(client, script);
  const texts: string[] = [];
  client.onEvent((event) => void (event.event === "output" && texts.push(event.text)));
  await client.subscribe({ id, output: true });
  latch.open();
  await until("the lines are told", () => texts.length > 0);
  await until("and what looks like a prompt", () => texts.length > 1);
  latch.open();
  await until("and its end", () => texts.length > 2);
  equal(texts, ["one\ntwo\n", "thr", "ee\n"]);
});

scenario("a follower hears once of its file, however often that is written to", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const latch = createLatch(scene);
  const lines = "for n in $(seq 100); do echo 123456789; done";
  const id = await spawnShell(client, `read _ <${latch.path}; ${lines}; exec sleep 1000`);
  let told = 0;
  client.onEvent((event) => {
    if (event.event === "output") told = event.next;
  });
  await client.subscribe({ id, output: true });
  const isItsFileWatched = () => isWatched(daemon.pid, fileOf(daemon, id).ino);
  is(isItsFileWatched(), true);
  scene.after(() => void process.kill(daemon.pid, "SIGCONT"));
  process.kill(daemon.pid, "SIGSTOP");
  await until("the daemon stands still", () => statFields(daemon.pid)?.[0] === "T");
  latch.open();
  await until("all is written", () => fileOf(daemon, id).size === 1_000);
  // A watch that is gone tells of nothing more, whatever is written.
  is(isItsFileWatched(), false);
  process.kill(daemon.pid, "SIGCONT");
  await until("it is told all", () => told === 1_000);
  await until("its file is watched again", isItsFileWatched);
});

scenario("who writes by turns to both streams and is followed holds up nobody", async (scene) => {
  const daemon = await startDaemon(scene);
  const [follower, other] = [await daemon.connect(), await daemon.connect()];
  const heard = new Set<string>();
  follower.onEvent((event) => {
    if (event.event === "output") heard.add(`${event.stream} of ${event.id}`);
  });
  // Several, so that there is one to write at every moment.
  for (let n = 0; n < 3; n++) {
    const id = await spawnShell(other, "while :; do echo; echo >&2; done");
    await follower.subscribe({ id, output: true });
  }
  for (let round = 0; round < 2; round++) {
    heard.clear();
    await until("both streams of each are told", () => heard.size === 6);
    await within(5_000, "a hundred answers", async () => {
      for (let n = 0; n < 100; n++) is((await other.list({})).processes.length, 3);
    });
  }
});

// --- where something is missing -------------------------------------------------------------

const NO_WATCHES = 'echo 0 >/proc/sys/user/max_inotify_watches && exec "$@"';
const noUserSpace = whyNot(["unshare", "-Ur", "sh", "-c", NO_WATCHES, "sh", "true"]);
const WITHOUT_WATCHES = "without a watch to be had the cap holds all the same";

scenarioUnless(noUserSpace, WITHOUT_WATCHES, async (scene) => {
  const prefix = ["unshare", "-Ur", "sh", "-c", NO_WATCHES, "sh"];
  const env = { PROCSUP_CONTAINMENT: "group" };
  const daemon = await startCapped(scene, { prefix, env });
  const client = await daemon.connect();
  const latch = createLatch(scene);
  const more = numbered(LINES, 2 * LINES - 1);
  const script = `${numbered(0, LINES - 1)}; read _ <${latch.path}; ${more}; exec sleep 1000`;
  const id = await spawnShell(client, script);
  await untilCapped(daemon, id, 10 * LINES);
  latch.open();
  await untilCapped(daemon, id, 20 * LINES);
  is(isWatched(daemon.pid, fileOf(daemon, id).ino), false);
  equal(
    daemon.log.filter((line) => line.includes("cannot hold the cap")),
    [],
  );
});

/** From now on, in the user namespace of a daemon that has one to itself. */
function allowWatches({ pid }: Daemon, most: number): void {
  const argv = [
    "-U",
    "-t",
    String(pid),
    "sh",
    "-c",
    `echo ${most} >/proc/sys/user/max_inotify_watches`,
  ];
  const { status, stderr } = spawnSync("nsenter", argv, { encoding: "utf8" });
  if (status !== 0) throw new Error(`nsenter: ${stderr}`);
}

const WATCH_TAKEN = "a follower whose watch has gone to others goes on, and a new one is refused";

scenarioUnless(noUserSpace, WATCH_TAKEN, async (scene) => {
  const env = { PROCSUP_CONTAINMENT: "group" };
  const daemon = await startDaemon(scene, { prefix: ["unshare", "-Ur"], env });
  const client = await daemon.connect();
  const latch = createLatch(scene);
  const id = await spawnShell(client, `while read -r word <${latch.path}; do echo "$word"; done`);
  let heard = 0;
  client.onEvent((event) => void (event.event === "output" && heard++));
  await client.subscribe({ id, output: true });
  allowWatches(daemon, 0);
  for (const count of [1, 2, 3]) {
    latch.open();
    await until(`line ${count} is told`, () => heard === count);
  }
  const another = await spawnShell(client, "exec sleep 1000");
  const { kind, facts } = await refusalOf(client.subscribe({ id: another, output: true }));
  equal([kind, facts], ["limit_exceeded", { limit: "inotify", errno: "ENOSPC" }]);
  allowWatches(daemon, 100);
  await until("it is watched again", () => isWatched(daemon.pid, fileOf(daemon, id).ino));
});

/** The state is on a file system of that type. */
function mounted(type: string, { folder }: Scene): string[] {
  const mount = `mkdir -p "$0" && mount -t ${type} none "$0" && exec "$@"`;
  return ["unshare", "-m", "sh", "-c", mount, join(folder, "state")];
}
const whyNotMounted = (type: string) =>
  whyNot(["unshare", "-m", "mount", "-t", type, "none", "/mnt"]);

/** A file system that keeps its files in memory, and knows no holes. */
const noRamfs = whyNotMounted("ramfs");
const WITHOUT_HOLES = "where holes cannot be punched, what is lost is told and offsets stay true";

scenarioUnless(noRamfs, WITHOUT_HOLES, async (scene) => {
  const daemon = await startCapped(scene, { prefix: mounted("ramfs", scene) });
  const client = await daemon.connect();
  const latch = createLatch(scene);
  // Each in one write, and quiet after it: nothing can slip between the calls of a truncation.
  const part = 600_000;
  const chunk = (from: number) =>
    `${numbered(from / 10, (from + part) / 10 - 1)} | dd bs=${part} iflag=fullblock status=none`;
  const offsets = [0, 1, 2, 3, 4, 5].map((at) => at * part);
  const script = offsets.map((from) => `${chunk(from)}; read _ <${latch.path}`).join("; ");
  const id = await spawnShell(client, script);
  const texts: string[] = [];
  for (const from of offsets) {
    const size = from + part;
    await untilCapped(daemon, id, size);
    const slice = await client.logs({ id, from: 0, maxBytes: limits.logBytes });
    is(slice.from, slice.oldest);
    await until("it is told", () => isKeptFrom(slice.oldest, lostOf(daemon)));
    isInPlace(slice.text, slice.from);
    const last = await client.logs({ id, tailLines: 20_000 });
    equal([last.from, last.oldest], [size - 200_000, slice.oldest]);
    isInPlace(last.text, last.from);
    const anew = { ...stranger(dirname(fileOf(daemon, id).path)), punches: false };
    const range = { maxBytes: limits.logBytes };
    equal(
      [slice.oldest, slice.text],
      await readOutput(anew, id, "stdout", range, true).then((one) => [one.oldest, one.text]),
    );
    texts.push(slice.text);
    latch.open();
  }
  const truncated = daemon.log.filter((line) => line.includes("output was truncated"));
  is(truncated.length, new Set(texts).size - 1);
  ok(truncated.length > 1);
});

const IN_FULL_FLOW = "where holes cannot be punched, a writer in full flow keeps its offsets";

scenarioUnless(noRamfs, IN_FULL_FLOW, async (scene) => {
  const daemon = await startCapped(scene, { prefix: mounted("ramfs", scene) });
  const client = await daemon.connect();
  const id = await spawnShell(client, numbered(0, 5 * LINES - 1));
  await client.wait({ id });
  await until("the cap holds", () => fileOf(daemon, id).diskBytes <= CAP + 4 * TREE_BYTES);
  const { text } = await client.logs({ id });
  const lines = text.split("\n").slice(0, -1).map(Number);
  equal(
    lines.filter((line, at) => line !== (lines[0] ?? 0) + at),
    [],
  );
  ok(lines.length > 0);
});

/** What the log has told to be lost. */
function lostOf({ log }: Daemon): number {
  const told = log.filter((line) => line.includes("output was truncated"));
  return told.reduce((sum, line) => sum + (JSON.parse(line) as { lost: number }).lost, 0);
}

/** Right behind it, but for a line in part. */
function isKeptFrom(oldest: number, lost: number): boolean {
  return oldest >= lost && oldest - lost <= 10;
}

// --- holes that a command makes -------------------------------------------------------------

/** Makes its output that long, and once the latch is open longer by four times the cap. */
function stretching(bytes: number, latch: { path: string }): string[] {
  const stretch = '$| = 1; print "hi"; truncate(STDOUT, $ARGV[0]) or die $!; print STDERR "made"';
  const script = `${stretch}; open(LATCH, "<", $ARGV[1]); <LATCH>; print "x" x $ARGV[2]; print STDERR ", filled"; sleep`;
  return ["perl", "-e", script, BigInt(bytes).toString(), latch.path, String(4 * CAP)];
}

/** The daemon has used no CPU for ten looks. */
async function untilAtRest({ pid }: Daemon): Promise<void> {
  let used = 0;
  let same = 0;
  await until("the daemon is at rest", () => {
    const [user, system] = (statFields(pid) ?? []).slice(11, 13);
    const now = Number(user) + Number(system);
    same = now === used ? same + 1 : 0;
    used = now;
    return same === 10;
  });
}

/** Of 8 TiB, which nearly every file system allows, and of more than a number in JSON can count. */
const holes: [where: string, size: number, why: string | null, type: string | null][] = [
  ["on disk", 2 ** 43, null, null],
  ["on tmpfs", 2 ** 62, whyNotMounted("tmpfs"), "tmpfs"],
  ["where holes cannot be punched", 2 ** 62, noRamfs, "ramfs"],
];

for (const [where, size, why, type] of holes) {
  scenarioUnless(why, `a hole in a command's output keeps nobody busy, ${where}`, async (scene) => {
    const prefix = type === null ? [] : mounted(type, scene);
    const daemon = await startCapped(scene, { prefix });
    const client = await daemon.connect();
    const latch = createLatch(scene);
    const { id } = await client.spawn({ command: stretching(size, latch) });
    const said = async () => (await client.logs({ id, stream: "stderr" })).text;
    await until("the hole is made", async () => (await said()) === "made");
    const other = await spawnShell(client, numbered(0, LINES - 1));
    await client.wait({ id: other });
    const isCapped = (one: string) => fileOf(daemon, one).diskBytes <= CAP + 4 * TREE_BYTES;
    await until("the cap of another holds", () => isCapped(other));
    const end = Math.min(size, Number.MAX_SAFE_INTEGER);
    for (const range of [{ from: Number.MAX_SAFE_INTEGER }, { tailLines: 0 }]) {
      const { text, from, next } = await client.logs({ id, ...range });
      equal([text, from, next], ["", end, end]);
    }
    const oldest = async () => (await client.logs({ id, tailLines: 3 })).oldest;
    await until("the cap of it holds", async () => (await oldest()) >= end - CAP);
    await client.subscribe({ id, output: true });
    await untilAtRest(daemon);
    latch.open();
    await until("it is filled", async () => (await said()) === "made, filled");
    await until("the cap holds", () => isCapped(id));
    ok((await client.logs({ id })).next <= Number.MAX_SAFE_INTEGER);
    await untilAtRest(daemon);
  });
}
