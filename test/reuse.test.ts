// A number is not an identity: in a pid namespace of its own the kernel is told which number to give
// next, and an innocent process gets that of a leader that is gone while its tree lives on.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { equal, is } from "uvu/assert";
import type { Refusal } from "../client/wire.js";
import { holdCgroupAgain } from "../daemon/tree/cgroup.js";
import { holdFound } from "../daemon/tree/found.js";
import { departed } from "../daemon/tree/leader.js";
import { see } from "../daemon/tree/signs.js";
import { containments } from "./cage.js";
import { createLatch, spawnReady } from "./commands.js";
import { configFile, startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenario, skipped, until } from "./scenario.js";

const INSIDE = "PROCSUP_TEST_INSIDE";
const namespace = ["-pf", "--mount-proc", "--kill-child"];

/** A process of no business of procsup's that bears this number, group and session included. */
function innocentWith(scene: Scene, pid: number): ChildProcess | false {
  writeFileSync("/proc/sys/kernel/ns_last_pid", String(pid - 1));
  const child = spawn("sleep", ["100"], { detached: true, stdio: "ignore" });
  scene.after(() => void child.kill("SIGKILL"));
  return child.pid === pid && child;
}

async function spareInnocent(scene: Scene, containment: string): Promise<void> {
  const daemon = await startDaemon(scene, { args: ["--containment", containment] });
  const client = await daemon.connect();
  const command = ["sh", "-c", "setsid sleep 100 & sleep 0.1"];
  const trees = await Promise.all(
    [1, 2].map(() => client.spawn({ command, strays: "keep" as const })),
  );
  for (const { id, pid } of trees) {
    await until("the leader is gone, its stray lives", async () => {
      const { members } = await client.status({ id });
      return !isAlive(pid ?? 0) && members.length === 1;
    });
    await until("an innocent has its number", () => innocentWith(scene, pid ?? 0));
  }
  const [first, second] = trees.map(({ id, pid }) => ({ id, pid: pid ?? 0 }));
  if (first === undefined || second === undefined) throw new Error("two were spawned");
  const refused = client.signal({ id: first.id, signal: "SIGKILL" });
  is(await refused.catch((error: Refusal) => error.kind), "already_terminated");
  await client.pause({ id: first.id });
  await client.resume({ id: first.id });
  equal(await client.signal({ id: first.id, signal: "SIGCONT", to: "tree" }), { signaled: 1 });
  is((await client.terminate({ id: first.id, force: true })).ended, 1);
  is((await client.terminate({ id: second.id })).ended, 1);
  daemon.child.kill("SIGTERM");
  await daemon.exited;
  equal([first.pid, second.pid].map(isAlive), [true, true]);
}

/** Whose strays live and whose number was given to another process is meant by it again once that has ended. */
async function meanTheLiving(scene: Scene, containment: string): Promise<void> {
  const args = ["--containment", containment, ...configFile(scene, { historyCount: 1 })];
  const client = await (await startDaemon(scene, { args })).connect();
  const command = ["sh", "-c", "setsid sleep 100 & exit 5"];
  const old = await client.spawn({ command, strays: "keep" });
  const pid = old.pid ?? 0;
  await until("the leader is gone", () => !isAlive(pid));
  const sleep = ["sleep", "100"];
  const young = await until("another has its number", async () => {
    writeFileSync("/proc/sys/kernel/ns_last_pid", String(pid - 1));
    const other = await client.spawn({ command: sleep });
    if (other.pid === pid) return other;
    await client.terminate({ id: other.id, force: true });
    return null;
  });
  is((await client.status({ pid })).id, young.id);
  await client.terminate({ pid, force: true });
  is((await client.status({ pid })).id, old.id);
  const { id: next } = await client.spawn({ command: ["true"] });
  await client.wait({ id: next });
  await until("the other is forgotten", () =>
    client.status({ id: young.id }).then(
      () => false,
      () => true,
    ),
  );
  is((await client.terminate({ pid, force: true })).id, old.id);
}

/** A leader is gone, and one of its own tree bears its number now, which is that of its group, too. */
async function reachMember(scene: Scene, containment: string): Promise<void> {
  const client = await (
    await startDaemon(scene, { args: ["--containment", containment] })
  ).connect();
  const latch = createLatch(scene);
  const forks = 'while read -r _; do setsid sleep 100 & done <"$1"';
  const command = ["sh", "-c", `setsid sh -c '${forks}' sh "$1" & echo ready; exec sleep 100`];
  const { id, pid } = await spawnReady(client, [...command, "sh", latch.path], { strays: "keep" });
  const membersNow = async () => (await client.status({ id })).members;
  await until("both are seen", async () => (await membersNow()).length === 2);
  await client.signal({ id, signal: "SIGKILL" });
  await until("the leader is gone", async () => (await membersNow()).length === 1 && !isAlive(pid));
  const forkOne = async () => {
    const before = (await membersNow()).length;
    writeFileSync("/proc/sys/kernel/ns_last_pid", String(pid - 1));
    latch.open();
    return until("another member", async () => {
      const members = await membersNow();
      return members.length > before && members;
    });
  };
  const members = await until("a member has the leader's number", async () => {
    const now = await forkOne();
    return now.some((member) => member.pid === pid) && now;
  });
  await until("it is told of as it is now", async () => {
    return (await membersNow()).find((member) => member.pid === pid)?.command === "sleep 100";
  });
  equal(await client.signal({ id, signal: "SIGCONT", to: "tree" }), { signaled: members.length });
  const { forced, ended } = await client.terminate({ id });
  equal([forced, ended], [false, members.length]);
  equal(
    members.filter((member) => isAlive(member.pid)),
    [],
  );
}

const listed = "cgroup: who has left the list of a cgroup meanwhile is not signalled";

/** A folder for a cgroup, with a list as it was when it was read: its one member's number has passed on. */
async function spareListed(scene: Scene): Promise<void> {
  const innocent = spawn("sleep", ["100"], { stdio: "ignore" });
  scene.after(() => void innocent.kill("SIGKILL"));
  const pid = innocent.pid ?? 0;
  const files = { procs: `${pid}\n`, events: "populated 1\nfrozen 0\n", freeze: "0\n" };
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(join(scene.folder, `cgroup.${name}`), text);
  }
  const tree = holdCgroupAgain(departed(pid), scene.folder, "p0123456789ab");
  const reach = await tree?.signal("SIGKILL", "SIGCONT");
  equal(reach, { found: [pid], reached: 0, refused: [] });
  is(isAlive(pid), true);
  tree?.release();
}

const searched = "group: who has the number of somebody found before is not signalled";

/** Found with a start, or a tag, that its number's bearer of now does not have. */
async function spareFound(scene: Scene): Promise<void> {
  const innocent = spawn("sleep", ["100"], { stdio: "ignore" });
  scene.after(() => void innocent.kill("SIGKILL"));
  const now = await until("it can be seen", () => see(innocent.pid ?? 0));
  const former = [
    { ...now, startTicks: now.startTicks - 1 },
    { ...now, tag: (now.tag ?? 0n) + 1n },
  ];
  for (const one of former) {
    const tree = holdFound({ find: async () => [one], leader: null, tag: null, uid: null });
    equal(await tree.signal("SIGKILL"), { found: [now.pid], reached: 0, refused: [] });
  }
  is(isAlive(now.pid), true);
}

if (process.env[INSIDE] === undefined) {
  scenario(listed, spareListed);
  scenario(searched, spareFound);
}

const scenes = {
  "an innocent with a dead leader's number is spared, whatever is done to the tree": spareInnocent,
  "a number that was used twice means whoever lives": meanTheLiving,
  "a member with the dead leader's number is seen, signalled and ended": reachMember,
};
const outside = spawnSync("unshare", [...namespace, "true"], { encoding: "utf8" });

for (const containment of containments) {
  for (const [what, play] of Object.entries(scenes)) {
    const name = `${containment}: ${what}`;
    if (process.env[INSIDE] !== undefined) {
      if (process.env[INSIDE] === name) scenario(name, (scene) => play(scene, containment));
    } else if (outside.status !== 0) {
      skipped(name, `no pid namespace: ${outside.stderr.trim()}`);
    } else {
      scenario(name, () => {
        const env = { ...process.env, [INSIDE]: name };
        const argv = [...namespace, process.execPath, fileURLToPath(import.meta.url)];
        const { status, stdout, stderr } = spawnSync("unshare", argv, { env, encoding: "utf8" });
        equal([status, /Passed: +1/.test(stdout)], [0, true], `${stdout}${stderr}`);
      });
    }
  }
}
