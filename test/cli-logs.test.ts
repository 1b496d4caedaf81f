// `procsup logs`: what was written, whole, its end, or as it comes.

import { equal, is, ok } from "uvu/assert";
import { documentOf, runCli, type Said, setUp } from "./cli.js";
import { createLatch, spawnReady, testProgram } from "./commands.js";
import { theDaemonGoes } from "./daemon.js";
import { scenario, until } from "./scenario.js";

/** As seq(1) writes it. */
const seq = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, at) => `${from + at}\n`).join("");

/** As `is`, but what it prints of a long text is only where it differs. */
function isText(actual: string, expected: string): void {
  if (actual === expected) return;
  const at = [...expected].findIndex((_, index) => actual[index] !== expected[index]);
  const excerpt = (text: string) => JSON.stringify(text.slice(Math.max(0, at - 20), at + 20));
  throw new Error(`at ${at}: ${excerpt(actual)}, expected ${excerpt(expected)}`);
}

scenario("each stream goes to its own, whole or its last lines", async (scene) => {
  const { cli, client } = await setUp(scene);
  const script = "seq 1 50000; echo oops >&2; echo again >&2";
  const { id } = await client.spawn({ command: ["sh", "-c", script] });
  await client.wait({ id });
  const cases: [string[], string, string][] = [
    [[], seq(1, 50_000), "oops\nagain\n"],
    [["-n", "2"], seq(49_999, 50_000), "oops\nagain\n"],
    [["--stream", "stdout", "--lines", "20000"], seq(30_001, 50_000), ""],
    [["--stream", "stderr", "-n1"], "", "again\n"],
    [["-n", "0"], "", ""],
    [["-f"], seq(1, 50_000), "oops\nagain\n"],
    [["-f", "--since-start"], seq(1, 50_000), "oops\nagain\n"],
    [["-f", "-n1", "--stream", "stdout"], "50000\n", ""],
  ];
  for (const [options, out, err] of cases) {
    const said = await cli("logs", id, ...options);
    equal([said.code, said.err], [0, err], options.join(" "));
    isText(said.out, out);
  }
});

scenario("with --json there is a document of one stream, or of both by name", async (scene) => {
  const { cli, client } = await setUp(scene);
  const { id } = await client.spawn({ command: ["sh", "-c", "seq 1 50000; echo oops >&2"] });
  await client.wait({ id });
  const one = documentOf(await cli("logs", "--stream", "stderr", id, "--json"));
  equal(one, { text: "oops\n", from: 0, next: 5, oldest: 0, ended: true, missed: 0 });
  const whole = await cli("logs", id, "--json");
  const { stdout, stderr } = JSON.parse(whole.out) as Record<string, typeof one>;
  isText(String(stdout?.["text"]), seq(1, 50_000));
  const bytes = seq(1, 50_000).length;
  const all = { text: "", from: 0, next: bytes, oldest: 0, ended: true, missed: 0 };
  equal({ ...stdout, text: "" }, all);
  equal([stderr, whole.err], [one, ""]);
});

scenario("without --follow they end where the end was, however much comes after", async (scene) => {
  const { client, env } = await setUp(scene);
  const latch = createLatch(scene);
  // Far more than all pipes on the way hold, so that whoever reads it whole reads it later.
  const script = `seq 1 200000; read _ <${latch.path}; seq 200001 400000; exec sleep 1000`;
  const { id } = await client.spawn({ command: ["sh", "-c", script] });
  const isWritten = (line: string) =>
    until(line, async () => (await client.logs({ id, tailLines: 1 })).text === `${line}\n`);
  await isWritten("200000");
  const { child, said } = runCli(scene, ["logs", id], { env });
  child.stdout?.pause();
  await until("it has begun", () => (child.stdout?.readableLength ?? 0) > 0);
  latch.open();
  await isWritten("400000");
  child.stdout?.resume();
  const { code, out } = await said;
  is(code, 0);
  ok(out.includes("\n200000\n") && !out.includes("\n400000\n"));
  isText(out, seq(1, 400_000).slice(0, out.length));
});

for (const [how, json] of [
  ["as text", []],
  ["as one document", ["--json"]],
] as const) {
  scenario(`--follow ${how} goes on to the end, and misses and doubles nothing`, async (scene) => {
    const { client, env } = await setUp(scene);
    const latch = createLatch(scene);
    const half = 3_000;
    const command = testProgram("writes-when-told.sh", latch.path, String(half));
    const { id } = await client.spawn({ command });
    const follow = (...options: string[]) =>
      runCli(scene, ["logs", "-f", ...json, ...options, id], { env });
    const followers = [follow(), follow("-n", "1")];
    // Text comes as it is written; a document comes at the end only.
    const heard = async (line: number) => {
      const isHeard = () => followers.every(({ soFar }) => soFar.out.includes(`${line} é€😀\n`));
      if (json.length === 0) await until(`${line} is heard`, isHeard);
    };
    await heard(half);
    latch.open();
    await heard(2 * half);
    latch.open();
    const [whole, tail] = await Promise.all(
      followers.map(async ({ said }) => textsOf(await said, json.length > 0)),
    );
    const lines = Array.from({ length: 2 * half }, (_, at) => `${at + 1} é€😀\n`).join("");
    isText(whole?.stdout ?? "", lines);
    isText(tail?.stdout ?? "", lines.slice(-(tail?.stdout.length ?? 0)));
    equal([whole?.stderr, tail?.stderr], ["complaint\n", "complaint\n"]);
  });
}

function textsOf(said: Said, isJson: boolean): { stdout: string; stderr: string } {
  is(said.code, 0);
  if (!isJson) return { stdout: said.out, stderr: said.err };
  const { stdout, stderr } = JSON.parse(said.out) as Record<string, { text: string }>;
  return { stdout: stdout?.text ?? "", stderr: stderr?.text ?? "" };
}

scenario("--follow goes on in a file that its command has emptied", async (scene) => {
  const { client, env } = await setUp(scene);
  const latch = createLatch(scene);
  const script = 'echo the first line; read -r _ <"$0"; echo again >/dev/stdout';
  const { id } = await client.spawn({ command: ["sh", "-c", script, latch.path] });
  const { soFar, said } = runCli(scene, ["logs", "-f", id], { env });
  await until("it follows", () => soFar.out !== "");
  latch.open();
  equal(await said, { code: 0, out: "the first line\nagain\n", err: "" });
});

scenario("--follow says so when the daemon is gone", async (scene) => {
  const { client, env, daemon } = await setUp(scene, {});
  const { id, pid } = await spawnReady(client, testProgram("ignores-term.sh"));
  scene.after(() => void process.kill(-pid, "SIGKILL"));
  const { soFar, said } = runCli(scene, ["logs", "-f", id], { env });
  await until("it follows", () => soFar.out !== "");
  daemon.child.kill("SIGKILL");
  await daemon.exited;
  const err = "procsup: the daemon closed the connection\n";
  equal(await said, { code: 1, out: "ready\n", err });
});

scenario("--since-start and --lines contradict each other", async (scene) => {
  const { cli } = await setUp(scene);
  const said = await cli("logs", "--since-start", "-n", "1", "web");
  equal([said.code, said.out], [2, ""]);
  ok(said.err.includes("--since-start") && said.err.includes("--lines"));
});

scenario(
  "what the cap has freed is told of, where reading was to begin before it",
  async (scene) => {
    const { cli, client } = await setUp(scene, { args: ["--output-bytes", "65536"] });
    const { id } = await client.spawn({ command: ["seq", "1", "50000"] });
    await client.wait({ id });
    const { oldest } = await until("it is capped", async () => {
      const slice = await client.logs({ id });
      return slice.oldest > 0 ? slice : null;
    });
    const out = seq(1, 50_000).slice(oldest);
    const err = `procsup: stdout: ${oldest} bytes missed: the cap had freed them\n`;
    for (const options of [[], ["--since-start"], ["-f"]]) {
      const said = await cli("logs", id, ...options);
      equal([said.code, said.err], [0, err]);
      isText(said.out, out);
    }
    equal(await cli("logs", id, "-n", "1"), { code: 0, out: "50000\n", err: "" });
    const { text, ...rest } = documentOf(await cli("logs", id, "--stream", "stdout", "--json"));
    isText(String(text), out);
    const next = seq(1, 50_000).length;
    equal(rest, { from: oldest, next, oldest, ended: true, missed: oldest });
  },
);

scenario("a follower that falls behind the cap is told, and goes on from there", async (scene) => {
  const { client, env } = await setUp(scene, { args: ["--output-bytes", "65536"] });
  const latch = createLatch(scene);
  const script = `seq 1 5000; read _ <${latch.path}; seq 5001 1000000`;
  const { id } = await client.spawn({ command: ["sh", "-c", script] });
  const { child, soFar, said } = runCli(scene, ["logs", "-f", id], { env });
  await until("it follows", () => soFar.out.endsWith("\n5000\n"));
  child.stdout?.pause();
  latch.open();
  await client.wait({ id });
  const all = seq(1, 1_000_000);
  await until("it is capped", async () => {
    return all.length - (await client.logs({ id, tailLines: 1 })).oldest <= 65_536;
  });
  child.stdout?.resume();
  const { code, out, err } = await said;
  is(code, 0);
  const missed = [...err.matchAll(/^procsup: stdout: (\d+) bytes missed: .*\n/gm)];
  is(missed.map(([line]) => line).join(""), err);
  const sum = missed.reduce((bytes, [, digits]) => bytes + Number(digits), 0);
  ok(sum > 0);
  is(sum + out.length, all.length);
  ok(out.endsWith("\n999999\n1000000\n"));
});

theDaemonGoes();
