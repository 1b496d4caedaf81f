import { dirname, join } from "node:path";
import { equal, is, ok } from "uvu/assert";
import { limits } from "../client/wire.js";
import { readOutput } from "../daemon/output/reading.js";
import { createLatch } from "./commands.js";
import type { Daemon } from "./daemon.js";
import {
  CAP,
  fileOf,
  isInPlace,
  LINES,
  numbered,
  spawnShell,
  startCapped,
  stranger,
  TREE_BYTES,
  untilCapped,
} from "./output.js";
import { type Scene, scenarioUnless, statFields, until, whyNot } from "./scenario.js";

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
