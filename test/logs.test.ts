// Output as it is read back: by offset, by last lines, and by those who follow it.

import { statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, ok } from "uvu/assert";
import { createLatch, leaseOn, leasing, refusalOf, spawnReady } from "./commands.js";
import { startDaemon, theDaemonGoes, visitDaemon } from "./daemon.js";
import { isInPlace, numbered } from "./output.js";
import { scenario, until, within } from "./scenario.js";

scenario("logs are read by offset, to the byte, and by last lines", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const script = 'printf "one\\ntwo\\nthr\\303\\251\\n"; printf "err" >&2';
  const { id } = await client.spawn({ command: ["sh", "-c", script] });
  await client.wait({ id });
  const whole = { text: "one\ntwo\nthré\n", from: 0, next: 14, oldest: 0, ended: true };
  equal(await client.logs({ id }), whole);
  equal(await client.logs({ id, from: 4, maxBytes: 4 }), {
    text: "two\n",
    from: 4,
    next: 8,
    oldest: 0,
    ended: false,
  });
  // The cut would fall into the middle of é: it is left for the next read.
  const cut = await client.logs({ id, from: 8, maxBytes: 4 });
  equal([cut.text, cut.next], ["thr", 11]);
  equal((await client.logs({ id, from: cut.next })).text, "é\n");
  equal((await client.logs({ id, tailLines: 1 })).text, "thré\n");
  equal((await client.logs({ id, tailLines: 2 })).from, 4);
  equal((await client.logs({ id, tailLines: 99 })).from, 0);
  equal((await client.logs({ id, tailLines: 0 })).text, "");
  equal((await client.logs({ id, stream: "stderr" })).text, "err");
  equal((await client.logs({ id, from: 1_000_000 })).next, 14);
});

scenario("bytes that are no text come through as such, with true offsets", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id } = await client.spawn({ command: ["sh", "-c", 'printf "a\\377\\000b\\303"'] });
  await client.wait({ id });
  const { text, next, ended } = await client.logs({ id });
  equal([text, next, ended], ["a\ufffd\0b\ufffd", 5, true]);
});

scenario("merged output keeps its order in one stream, null output has none", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const command = ["sh", "-c", "echo 1; echo 2 >&2; echo 3"];
  const merged = await client.spawn({ command, output: "merged" });
  const none = await client.spawn({ command, output: "null" });
  await client.wait({ id: merged.id });
  await client.wait({ id: none.id });
  is((await client.logs({ id: merged.id })).text, "1\n2\n3\n");
  is((await client.logs({ id: merged.id, stream: "stderr" })).text, "");
  equal(await client.logs({ id: none.id }), { text: "", from: 0, next: 0, oldest: 0, ended: true });
});

scenario("the last lines of a large file are found without reading it all", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id } = await client.spawn({ command: ["sh", "-c", "seq 1 1000000"] });
  await client.wait({ id });
  is((await client.logs({ id, tailLines: 2 })).text, "999999\n1000000\n");
  const many = await client.logs({ id, tailLines: 100_000, maxBytes: 1024 });
  ok(many.text.startsWith("900001\n900002\n"));
});

scenario("last lines of more than 8 MiB begin with a whole line or character", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const written = async (script: string, tailLines: number) => {
    const { id } = await client.spawn({ command: ["sh", "-c", script] });
    await client.wait({ id });
    return client.logs({ id, tailLines });
  };
  const tail = 8 * 1024 * 1024;
  // Lines of ten bytes: that floor lies in one.
  const lines = await written(numbered(0, 999_999), 900_000);
  is(lines.from, Math.ceil((10_000_000 - tail) / 10) * 10);
  isInPlace(lines.text, lines.from);
  // Of eight: it lies where one begins.
  const even = await written("yes 1234567 | head -c 16000000", 1_999_999);
  equal([even.from, even.text.slice(0, 8)], [16_000_000 - tail, "1234567\n"]);
  // Without lines, of three: it lies in a character.
  const wide = await written("yes € | tr -d '\\n' | head -c 9000000", 1);
  equal([wide.from % 3, wide.text[0], wide.text.includes("\ufffd")], [0, "€", false]);
  ok(wide.from >= 9_000_000 - tail - 3 && wide.from <= 9_000_000 - tail + 3);
});

scenario("a lease of a command's on its own output holds up nobody else", async (scene) => {
  // Without cgroups terminate needs the threads that a file is opened on, too.
  const daemon = await startDaemon(scene, { args: ["--containment", "group"] });
  const client = await daemon.connect();
  const latch = createLatch(scene);
  const other = await spawnReady(client, ["sh", "-c", "echo ready; exec sleep 1000"]);
  const { id } = await client.spawn({ command: leasing(10, latch) });
  const path = join(daemon.state, "output", `${id}.stdout`);
  await until("it has written under its lease", () => statSync(path).size === 10);
  const readers = await Promise.all(Array.from({ length: 8 }, () => daemon.connect()));
  const refusals = Promise.all(readers.map((reader) => refusalOf(reader.logs({ id }))));
  await within(5_000, "others are served", async () => {
    is((await client.logs({ id: other.id })).text, "ready\n");
    is((await client.terminate({ id: other.id })).status, "terminated");
  });
  for (const { kind, facts } of await refusals) {
    equal([kind, facts], ["permission_denied", { id, stream: "stdout", errno: "EAGAIN" }]);
  }
  is(leaseOn(path), "BREAKING");
  latch.open();
  await until("the lease is given up", () => leaseOn(path) === null);
  is((await client.logs({ id })).text, "123456789\n");
});

scenario(
  "a subscriber to output is sent all of it, by offset, and then told the end",
  async (scene) => {
    const client = await (await visitDaemon(scene)).connect();
    const gate = join(scene.folder, "gate");
    const script = `until [ -e ${gate} ]; do sleep 0.01; done; seq 1 20000; echo end >&2`;
    const { id } = await client.spawn({ command: ["sh", "-c", script] });
    const texts = { stdout: "", stderr: "" };
    let heardAtEnd = 0;
    client.onEvent((event) => {
      if (event.event === "status") heardAtEnd = texts.stdout.length + texts.stderr.length;
      if (event.event !== "output") return;
      is(event.from, Buffer.byteLength(texts[event.stream]));
      texts[event.stream] += event.text;
    });
    await client.subscribe({ id, output: true });
    writeFileSync(gate, "");
    const expected = Array.from({ length: 20_000 }, (_, at) => `${at + 1}\n`).join("");
    await until("the end is heard", () => heardAtEnd > 0);
    is(texts.stdout, expected);
    is(texts.stderr, "end\n");
    is(heardAtEnd, expected.length + 4);
  },
);

scenario("the end of each of many loud processes is told, behind all its output", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const gate = join(scene.folder, "gate");
  const script = `until [ -e ${gate} ]; do sleep 0.01; done; seq 1 100000`;
  const command = ["sh", "-c", script];
  const loud = await Promise.all(Array.from({ length: 16 }, () => client.spawn({ command })));
  const heard = new Map(loud.map(({ id }) => [id, 0]));
  const heardAtEnd: number[] = [];
  client.onEvent((event) => {
    if (event.event === "output") heard.set(event.id, event.next);
    if (event.event === "status") heardAtEnd.push(heard.get(event.process.id) ?? 0);
  });
  for (const { id } of loud) await client.subscribe({ id, output: true });
  writeFileSync(gate, "");
  // Their answers take the room that events leave.
  await Promise.all(loud.map(({ id }) => client.wait({ id })));
  await until("every end is told", () => heardAtEnd.length === loud.length);
  const { next } = await client.logs({ id: loud[0]?.id ?? "", tailLines: 0 });
  equal(
    heardAtEnd,
    loud.map(() => next),
  );
});

scenario(
  "whoever follows a process that the daemon's stop ends is told all of it",
  async (scene) => {
    const daemon = await startDaemon(scene);
    const client = await daemon.connect();
    const script = 'trap "echo bye; sleep 0.3; echo last; exit 7" TERM; echo ready; read -r _';
    const latch = createLatch(scene);
    const command = ["sh", "-c", `${script} <"$1"`, "sh", latch.path];
    const { id } = await spawnReady(client, command);
    const heard: string[] = [];
    client.onEvent((event) => {
      if (event.event === "output") heard.push(event.text);
      if (event.event === "status") heard.push(`${event.process.status} ${event.process.exitCode}`);
    });
    await client.subscribe({ id, output: true });
    const closed = new Promise((done) => client.onClose(done));
    daemon.child.kill("SIGTERM");
    await closed;
    equal(heard.join(""), "stopping nullbye\nlast\nterminated 7");
  },
);

theDaemonGoes();
