// How long ended processes are remembered: up to a count, an age and a size, oldest end first.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { equal, is, ok } from "uvu/assert";
import { kindOf } from "./commands.js";
import { configFile, crash, startDaemon } from "./daemon.js";
import { scenario, until } from "./scenario.js";

scenario(
  "ended processes are kept up to a count, with their output, and then forgotten",
  async (scene) => {
    const args = configFile(scene, { historyCount: 2 });
    const daemon = await startDaemon(scene, { args });
    const client = await daemon.connect();
    const ids: string[] = [];
    for (let count = 0; count < 4; count++) {
      const { id } = await client.spawn({ command: ["echo", "hi"], name: `n${count}` });
      await client.wait({ id });
      ids.push(id);
    }
    equal(
      (await client.list({ all: true })).processes.map(({ id }) => id),
      ids.slice(2),
    );
    is(await kindOf(client.status({ id: ids[0] ?? "" })), "process_not_found");
    is(await kindOf(client.status({ name: "n0" })), "process_not_found");
    const files = () =>
      readdirSync(join(daemon.state, "output")).filter((name) => !name.startsWith("."));
    await until("the files of the forgotten are gone", () => files().length === 4);
    ok(existsSync(join(daemon.state, "output", `${ids[3]}.stdout`)));
  },
);

scenario("ended processes are forgotten when their age is over", async (scene) => {
  const args = configFile(scene, { historyAgeMs: 50 });
  const client = await (await startDaemon(scene, { args })).connect();
  const { id } = await client.spawn({ command: ["true"] });
  await until(
    "it is forgotten",
    async () => (await kindOf(client.status({ id }))) === "process_not_found",
  );
});

scenario("ended processes are kept up to a size", async (scene) => {
  const args = configFile(scene, { historyBytes: 250_000 });
  const client = await (await startDaemon(scene, { args })).connect();
  for (let count = 0; count < 4; count++) {
    const { id } = await client.spawn({ command: ["true", "x".repeat(100_000)] });
    await client.wait({ id });
  }
  is((await client.list({ all: true })).processes.length, 2);
  const cwd = `/${"/".repeat(4_000)}`;
  for (let count = 0; count < 70; count++) {
    const { id } = await client.spawn({ command: ["true"], cwd });
    await client.wait({ id });
  }
  ok((await client.list({ all: true })).processes.length < 64);
});

scenario("a name goes on to name its holder when an earlier one is forgotten", async (scene) => {
  const args = configFile(scene, { historyCount: 1 });
  const client = await (await startDaemon(scene, { args })).connect();
  const { id } = await client.spawn({ command: ["sleep", "1000"], name: "web" });
  await client.terminate({ id });
  const next = await client.spawn({ command: ["sleep", "1000"], name: "web" });
  const { id: other } = await client.spawn({ command: ["true"] });
  await client.wait({ id: other });
  const isForgotten = async () => (await kindOf(client.status({ id }))) === "process_not_found";
  await until("the first is forgotten", isForgotten);
  is((await client.status({ name: "web" })).id, next.id);
  await client.terminate({ id: next.id });
});

scenario("who ended first is forgotten first, after a restart too", async (scene) => {
  const first = await startDaemon(scene);
  const before = await first.connect();
  const early = await before.spawn({ command: ["sleep", "1000"] });
  const late = await before.spawn({ command: ["true"] });
  await before.wait({ id: late.id });
  await before.terminate({ id: early.id });
  await crash(first);
  const args = configFile(scene, { historyCount: 1 });
  const client = await (await startDaemon(scene, { args })).connect();
  const { processes } = await client.list({ all: true });
  equal(
    processes.map(({ id }) => id),
    [early.id],
  );
});
