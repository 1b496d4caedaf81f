// Output files and their cap: which bytes are kept, and where reading begins.

import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import { capOutput } from "../daemon/output/cap.js";
import { readOutput } from "../daemon/output/reading.js";
import { createLatch, leaseOn, leasing } from "./commands.js";
import {
  CAP,
  fileOf,
  isInPlace,
  isWatched,
  LEAST_KEPT,
  LINES,
  NO_WATCHES,
  noUserSpace,
  numbered,
  spawnShell,
  startCapped,
  stranger,
  TREE_BYTES,
  untilCapped,
} from "./output.js";
import { bearers, scenario, scenarioUnless, until } from "./scenario.js";

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
  is(few.text, "100999997\n100999998\n100999999\n");
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

// --- where something is missing -------------------------------------------------------------

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
