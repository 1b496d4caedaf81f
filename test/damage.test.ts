// A journal damaged at random: what it did not say is never believed. PROCSUP_SEED=7 tries another damage.

import { readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { equal, is } from "uvu/assert";
import { readJournal } from "../daemon/life/journal.js";
import { crash, startDaemon } from "./daemon.js";
import { isAlive, scenario } from "./scenario.js";

const journals = resolve(import.meta.dirname, "../../test/journals");

/** Numbers in 0 to 1, the same for the same seed. Vigna, splitmix32. */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32;
  };
}

function damage(bytes: Buffer, random: () => number): Buffer {
  const below = (bound: number) => Math.floor(random() * bound);
  const lines = bytes.toString("latin1").split("\n");
  const at = below(lines.length);
  const other = below(lines.length);
  switch (below(5)) {
    case 0: {
      const flipped = Buffer.from(bytes);
      for (let count = below(8) + 1; count > 0; count--) {
        const place = below(bytes.length);
        flipped[place] = (flipped[place] ?? 0) ^ (1 << below(8));
      }
      return flipped;
    }
    case 1:
      return bytes.subarray(0, below(bytes.length));
    case 2:
      [lines[at], lines[other]] = [lines[other] ?? "", lines[at] ?? ""];
      break;
    case 3:
      lines.splice(at, 0, lines[other] ?? "");
      break;
    default:
      lines.splice(at, below(3) + 1);
  }
  return Buffer.from(lines.join("\n"), "latin1");
}

const SEED = Number(process.env["PROCSUP_SEED"] ?? Date.now() % 2 ** 31);

scenario("a damaged journal is believed in nothing that it did not say", (scene) => {
  const random = createRandom(SEED);
  const whole = readFileSync(join(journals, "version-1.journal"));
  const path = join(scene.folder, "journal");
  const said = readJournal(join(journals, "version-1.journal")).recorded;
  // Specs come from one line each; who is forgotten in the whole one may be known in a damaged one.
  for (let round = 0; round < 1_000; round++) {
    writeFileSync(path, damage(damage(whole, random), random));
    const { recorded } = readJournal(path);
    for (const [id, { spec, state }] of recorded) {
      const was = said.get(id);
      const where = `seed ${SEED}, round ${round}`;
      if (was !== undefined) equal(spec, was.spec, where);
      if (was !== undefined && "identity" in state && "identity" in was.state) {
        equal([state.pid, state.identity], [was.state.pid, was.state.identity], where);
      }
    }
  }
});

scenario("a daemon on a damaged journal adopts its own and nobody else", async (scene) => {
  const random = createRandom(SEED);
  const first = await startDaemon(scene);
  const before = await first.connect();
  const own = new Map<string, number>();
  for (let count = 0; count < 4; count++) {
    const { id, pid } = await before.spawn({ command: ["sleep", "1000"] });
    own.set(id, pid ?? 0);
    const { id: ended } = await before.spawn({ command: ["true"] });
    await before.wait({ id: ended });
  }
  await crash(first);
  const path = join(first.state, "journal");
  const whole = readFileSync(path);
  for (let round = 0; round < 6; round++) {
    const where = `seed ${SEED}, round ${round}`;
    writeFileSync(path, damage(damage(whole, random), random));
    const next = await startDaemon(scene);
    const client = await next.connect();
    const { processes } = await client.list({});
    for (const { id, pid } of processes) is(own.get(id), pid, where);
    equal([...own.values()].map(isAlive), [true, true, true, true], where);
    is(processes.length + (await client.strays({})).strays.length, own.size, where);
    await crash(next);
  }
  const last = await (await startDaemon(scene)).connect();
  for (const { id } of (await last.list({})).processes) await last.terminate({ id, force: true });
  await last.strays({ end: true, force: true });
});
