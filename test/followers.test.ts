// Those who follow output as it is written: what they are sent, what they miss, and what they cost others.

import { spawnSync } from "node:child_process";
import { equal, is, ok } from "uvu/assert";
import type { Event } from "../client/client.js";
import { createLatch, kindOf, refusalOf } from "./commands.js";
import { call, type Daemon, startDaemon } from "./daemon.js";
import {
  fileOf,
  isInPlace,
  isWatched,
  LINES,
  noUserSpace,
  numbered,
  spawnShell,
  startCapped,
  untilCapped,
} from "./output.js";
import { scenario, scenarioUnless, statFields, until, within } from "./scenario.js";

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

/** Writes under a lease on its own output, once the latch is open, and gives it up at the next word. */
const LEASING = [
  '$SIG{IO} = "IGNORE"; open(F, "+>>", "/proc/self/fd/1") or die $!; close(STDOUT);',
  "select(undef, undef, undef, 0.001) until fcntl(F, 1024, 1);",
  'syswrite(STDERR, "leased"); open(LATCH, "<", $ARGV[0]) or die $!; <LATCH>;',
  'syswrite(F, "written"); syswrite(STDERR, " written"); <LATCH>; fcntl(F, 1024, 2); sleep',
].join(" ");

scenario("what was written under a lease is told once that is given up", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const latch = createLatch(scene);
  const { id } = await client.spawn({ command: ["perl", "-e", LEASING, latch.path] });
  const said = async () => (await client.logs({ id, stream: "stderr" })).text;
  await until("it has its lease", async () => (await said()) === "leased");
  const texts: string[] = [];
  client.onEvent((one) => {
    if (one.event === "output" && one.stream === "stdout") texts.push(one.text);
  });
  await client.subscribe({ id, output: true });
  const complaints = () => daemon.log.filter((line) => line.includes("cannot follow output"));
  await until("its follower is locked out", () => complaints().length > 0);
  latch.open();
  await until("it has written", async () => (await said()) === "leased written");
  // Whoever asks now gives up later than the follower, which was woken by the write.
  is(await kindOf(client.logs({ id })), "permission_denied");
  latch.open();
  await until("that is told", () => texts.join("") === "written");
  is(complaints().length, 1);
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
