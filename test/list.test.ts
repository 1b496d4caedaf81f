// What `list` answers, and how what is longer than a line comes in pages.

import { equal, is, ok } from "uvu/assert";
import { listAll } from "../client/cli/pages.js";
import { type Client, connect } from "../client/client.js";
import { limits, type Refusal } from "../client/wire.js";
import { kindOf } from "./commands.js";
import { call, configFile, startDaemon, theDaemonGoes, visitDaemon } from "./daemon.js";
import { scenario } from "./scenario.js";

scenario("list holds the living, and the ended ones when asked", async (scene) => {
  const client = await (await startDaemon(scene)).connect();
  const alive = await client.spawn({ command: ["sleep", "1000"] });
  const ended = await client.spawn({ command: ["false"] });
  await client.wait({ id: ended.id });
  const ids = async (params: Parameters<Client["list"]>[0]) =>
    (await client.list(params)).processes.map(({ id }) => id);
  equal(await ids({}), [alive.id]);
  equal(await ids({ all: true }), [alive.id, ended.id]);
  equal(await ids({ status: "exited" }), [ended.id]);
  equal(await ids({ status: "lost" }), []);
  equal(await ids({ all: true, after: alive.id }), [ended.id]);
});

scenario("a list longer than a line comes in pages that leave nothing out", async (scene) => {
  const client = await (await startDaemon(scene)).connect();
  const long = "x".repeat(100_000);
  const spawned = await Promise.all(
    Array.from({ length: 20 }, () => client.spawn({ command: ["true", long] })),
  );
  const ids: string[] = [];
  let pages = 0;
  let after: string | null = null;
  do {
    const page: Awaited<ReturnType<Client["list"]>> = await client.list(
      after === null ? { all: true } : { all: true, after },
    );
    ids.push(...page.processes.map(({ id }) => id));
    after = page.next;
    pages += 1;
  } while (after !== null);
  ok(pages > 1);
  equal(
    ids,
    spawned.map(({ id }) => id),
  );
});

scenario("a page is no longer than a line, in whatever letters", async (scene) => {
  const daemon = await visitDaemon(scene);
  const raw = await daemon.raw();
  const command = ["true", ...Array(3).fill("€".repeat(40_000))];
  for (let n = 0; n < 4; n++) ok((await raw.ask(call("spawn", { command }))).result);
  const { result } = await raw.ask(call("list", { all: true }));
  ok(Buffer.byteLength(JSON.stringify(result)) < limits.lineBytes);
  ok(result?.["next"] !== null);
});

scenario("a command that no answer could hold is refused", async (scene) => {
  const { ask } = await (await visitDaemon(scene)).raw();
  const frame = JSON.stringify(["true", ""]).length;
  const commandOf = (bytes: number) => ({ command: ["true", "x".repeat(bytes - frame)] });
  const { error } = await ask(call("spawn", commandOf(limits.commandBytes + 1)));
  equal([error?.code, error?.data?.["field"]], [-32602, "command"]);
  // No longer than may be, for procsup: of one argument the kernel takes 128 KiB.
  const { error: failed } = await ask(call("spawn", commandOf(limits.commandBytes)));
  equal([failed?.data?.["kind"], failed?.data?.["errno"]], ["spawn_failed", "E2BIG"]);
});

scenario("a page after one that is forgotten meanwhile is no empty last page", async (scene) => {
  const args = configFile(scene, { historyCount: 1 });
  const daemon = await startDaemon(scene, { args });
  const client = await daemon.connect();
  // They come first, so that the page has to wait.
  const others = await Promise.all(Array.from({ length: 5 }, () => daemon.connect()));
  for (let round = 0; round < 5; round++) {
    const { id } = await client.spawn({ command: ["true"] });
    await client.wait({ id });
    const alive = await client.spawn({ command: ["sleep", "1000"] });
    const lists = others.map((other) => other.list({ all: true }));
    const page = client.list({ all: true, after: id }).then(
      ({ processes }) => processes[0]?.id,
      ({ kind }: Refusal) => kind,
    );
    is(await kindOf(client.spawn({ command: ["/missing"] })), "spawn_failed");
    const told = await page;
    ok(told === alive.id || told === "process_not_found", told);
    is(await kindOf(client.status({ id })), "process_not_found");
    await Promise.all(lists);
  }
});

scenario("who wants all pages gets them while processes are forgotten", async (scene) => {
  const args = configFile(scene, { historyCount: 8 });
  const daemon = await startDaemon(scene, { args });
  const [spawner, lister] = await Promise.all([daemon.connect(), connect(daemon)]);
  scene.after(() => lister.close());
  const command = ["true", "x".repeat(120_000), "x".repeat(120_000)];
  let isOver = false;
  const spawning = (async () => {
    const spawnAndWait = async () => spawner.wait({ id: (await spawner.spawn({ command })).id });
    for (let round = 0; round < 15; round++)
      await Promise.all(Array.from({ length: 8 }, spawnAndWait));
  })().finally(() => {
    isOver = true;
  });
  while (!isOver) {
    const ids = (await listAll(lister, { all: true })).map(({ id }) => id);
    is(new Set(ids).size, ids.length);
  }
  await spawning;
});

scenario("a refused list holds up no later one of its connection", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  is(await kindOf(client.list({ after: "p000000000000" })), "process_not_found");
  equal((await client.list({})).processes, []);
});

theDaemonGoes();
