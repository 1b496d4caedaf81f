// What a daemon meets when it starts: a machine that has no room, and places that it cannot have. Either it
// starts, or it says why in a sentence and leaves nothing behind.

import { spawnSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match } from "uvu/assert";
import { encode } from "../daemon/life/records.js";
import { noCgroup, openCgroup } from "./cage.js";
import { crash, launchDaemon, type StartOptions, startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenario, skipped, until } from "./scenario.js";

const isRoot = process.getuid?.() === 0;

function run(...argv: string[]): void {
  const [file = "", ...args] = argv;
  const { status, stderr } = spawnSync(file, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${argv.join(" ")}: ${stderr}`);
}

// --- no room ------------------------------------------------------------------------------------

/** A state directory on a file system of its own. */
function smallDisk(scene: Scene): string {
  const folder = join(scene.folder, "small");
  mkdirSync(folder, { mode: 0o700 });
  run("mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=64,mode=700", "tmpfs", folder);
  scene.after(() => run("umount", "--lazy", folder));
  return folder;
}

/** Do something until the file system has no room for it any more. */
function untilFull(more: () => void): void {
  try {
    for (;;) more();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
  }
}

const fills: Record<string, (folder: string) => void> = {
  block(folder) {
    for (const bytes of [65536, 4096]) {
      untilFull(() => appendFileSync(join(folder, "ballast"), Buffer.alloc(bytes)));
    }
  },
  inode(folder) {
    mkdirSync(join(folder, "ballast"));
    let count = 0;
    untilFull(() => writeFileSync(join(folder, "ballast", String(count++)), ""));
  },
};

for (const [what, fill] of Object.entries(fills)) {
  const name = `on a disk without a free ${what} a daemon starts, adopts, and ends what runs`;
  if (!isRoot) {
    skipped(name, "needs root, to mount a file system of its own");
    continue;
  }
  scenario(name, async (scene) => {
    const state = smallDisk(scene);
    const first = await startDaemon(scene, { state });
    const before = await first.connect();
    const two = [1, 2].map(() => before.spawn({ command: ["sleep", "1000"] }));
    const [ended, kept] = await Promise.all(two);
    fill(state);
    await crash(first);
    const second = await startDaemon(scene, { state });
    const client = await second.connect();
    is((await client.status({ id: String(kept?.id) })).members.length, 1);
    is((await client.terminate({ id: String(ended?.id) })).success, true);
    is(isAlive(Number(ended?.pid)), false);
    rmSync(join(state, "ballast"), { recursive: true });
    const spawn = () => client.spawn({ command: ["true"] }).catch(() => null);
    const young = await until("it passes", spawn);
    await client.wait({ id: young.id });
    await crash(second);
    const later = await (await startDaemon(scene, { state })).connect();
    const statuses = [kept, ended, young].map(async (one) => {
      return (await later.status({ id: String(one?.id) })).status;
    });
    equal(await Promise.all(statuses), ["running", "terminated", "exited"]);
  });
}

// --- places that cannot be had ------------------------------------------------------------------

/** It does not start, and says no more than such a sentence. */
async function refuses(scene: Scene, sentence: RegExp, options: StartOptions): Promise<void> {
  const daemon = launchDaemon(scene, options);
  is(await daemon.exited, 78);
  await until("it says why", () => daemon.log.length > 0);
  match(daemon.log.join("\n"), sentence);
}

scenario("where no folder can be made, that is said", async (scene) => {
  const state = "/proc/procsup/state";
  const sentence = /^procsupd: cannot use the state directory: ENOENT.*; choose one with --state$/;
  await refuses(scene, sentence, { state });
});

scenario("where no output can be kept, that is said", async (scene) => {
  const state = join(scene.folder, "state");
  mkdirSync(state, { mode: 0o700 });
  writeFileSync(join(state, "output"), "");
  await refuses(scene, /^procsupd: cannot keep output: ENOTDIR.* with --state$/, { state });
});

scenario("a socket that cannot be had leaves the state as it was", async (scene) => {
  const state = join(scene.folder, "state");
  const socket = join(scene.folder, "none", "s");
  await refuses(scene, /^procsupd: cannot listen on .*; choose another with --socket$/, { socket });
  is(existsSync(state), false);
});

// --- cgroups ------------------------------------------------------------------------------------

const failed = "a start that fails leaves no cgroup behind";
const vain = "where processes find no room in cgroups, none is left behind";

if (noCgroup !== null) {
  skipped(failed, noCgroup);
  skipped(vain, noCgroup);
} else {
  const ours = (folder: string) =>
    readdirSync(folder).filter((name) => name.startsWith("procsup-"));

  scenario(failed, async (scene) => {
    const { prefix, folder } = openCgroup(scene);
    const socket = join(scene.folder, "none", "s");
    await refuses(scene, /cannot listen/, { prefix, socket });
    const state = join(scene.folder, "newer");
    mkdirSync(state, { mode: 0o700 });
    writeFileSync(join(state, "journal"), encode({ journal: 2 }));
    await refuses(scene, /version 2/, { prefix, state });
    equal(ours(folder), []);
  });

  scenario(vain, async (scene) => {
    const { prefix, folder } = openCgroup(scene);
    writeFileSync(join(folder, "cgroup.max.descendants"), "1");
    const daemon = await startDaemon(scene, { prefix });
    is((await (await daemon.connect()).info({})).containment, "group");
    equal(ours(folder), []);
  });
}

scenario("a key that is none keeps the daemon from starting", async (scene) => {
  const state = join(scene.folder, "state");
  mkdirSync(state, { mode: 0o700 });
  writeFileSync(join(state, "key"), "nonsense\n");
  const daemon = launchDaemon(scene, { state });
  is(await daemon.exited, 78);
  writeFileSync(join(state, "key"), "1\n"); // for who looks for cgroups by it
});
