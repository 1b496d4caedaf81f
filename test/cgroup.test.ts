// What others do to the daemon's cgroups: they are its own, but in a tree that everybody of its user can change.

import { spawn } from "node:child_process";
import { readdirSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match } from "uvu/assert";
import { cgroupOf, isPaused, noCgroup, openCgroup } from "./cage.js";
import { programs, spawnReady, testProgram } from "./commands.js";
import { crash, type Daemon, startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenarioUnless, until, whyNot } from "./scenario.js";

function scenarioOf(name: string, body: (scene: Scene) => Promise<void>): void {
  scenarioUnless(noCgroup, name, body, 60_000);
}

/** For a daemon in a mount namespace of its own: nobody else is the poorer for it. */
function makeReadOnly({ pid }: Daemon, folder: string): void {
  for (const options of ["--bind", "-oremount,bind,ro"]) {
    const inside = ["nsenter", "--mount", `--target=${pid}`, "mount", options];
    equal(whyNot([...inside, folder, folder]), null);
  }
}

scenarioOf("an empty cgroup of ours that somebody removes is made anew", async (scene) => {
  const { prefix, folder } = openCgroup(scene);
  const daemon = await startDaemon(scene, { prefix });
  const client = await daemon.connect();
  const [base = ""] = readdirSync(folder).filter((name) => name.startsWith("procsup-"));
  rmdirSync(join(folder, base));
  const { id, containment } = await client.spawn({ command: ["sleep", "1000"] });
  equal([containment, readdirSync(join(folder, base)).includes(id)], ["cgroup", true]);
  equal((await client.terminate({ id })).ended, 1);
});

scenarioOf(
  "a tree that makes and removes cgroups without end is told of and ended",
  async (scene) => {
    const { prefix } = openCgroup(scene);
    const client = await (await startDaemon(scene, { prefix })).connect();
    const command = [process.execPath, join(programs, "churns-cgroups.mjs"), "3"];
    const { id } = await client.spawn({ command });
    const isReady = async () => (await client.logs({ id })).text === "ready\n".repeat(3);
    await until("all three are at it", isReady, 12_000);
    // Some five in ten thousand looks meet one that goes just then.
    for (let count = 0; count < 2_000; count++)
      equal((await client.status({ id })).members.length, 3);
    equal((await client.terminate({ id })).ended, 3);
  },
);

const odd: Record<string, string> = {
  "bytes that are no text": 'own="$own/$(printf "\\377")"; mkdir "$own"',
  "threads alone": 'own="$own/t"; mkdir "$own"; echo threaded >"$own/cgroup.type"',
};

for (const [what, make] of Object.entries(odd)) {
  scenarioOf(`a tree that makes a cgroup of ${what} is ended like any other`, async (scene) => {
    const { prefix, pids } = openCgroup(scene);
    const daemon = await startDaemon(scene, { prefix });
    const client = await daemon.connect();
    const own = `own=$(awk '/ - cgroup2 /{print $5}' /proc/self/mountinfo)$(sed -n s/^0:://p /proc/self/cgroup)`;
    const enter = `sh -c 'echo 0 >"$1/cgroup.procs"; echo ready; exec sleep 1000' - "$own" & wait`;
    const { id, pid } = await spawnReady(client, ["sh", "-c", `${own}; ${make}; ${enter}`]);
    is((await client.status({ id })).members.length, 2);
    is((await client.info({})).strays, 0);
    process.kill(pid, "SIGSTOP"); // that it may not be its end what ends the rest
    is((await client.terminate({ id, force: true })).ended, 2);
    equal(pids(), [daemon.pid]);
    const after = await spawnReady(client, ["sh", "-c", `${own}; ${make}; ${enter}`], {
      strays: "keep",
    });
    process.kill(after.pid, "SIGKILL");
    await until("the leader is gone", () => !isAlive(after.pid));
    is((await client.terminate({ id: after.id })).ended, 1);
    equal(pids(), [daemon.pid]);
  });
}

scenarioOf("a cgroup that cannot be removed ends no daemon", async (scene) => {
  const { prefix, folder } = openCgroup(scene);
  const daemon = await startDaemon(scene, { prefix: [...prefix, "unshare", "--mount"] });
  const client = await daemon.connect();
  // While it enters its cgroup it holds a file there open, and nothing can be made read-only.
  const { id, pid } = await spawnReady(client, ["sh", "-c", "echo ready; exec sleep 1000"]);
  makeReadOnly(daemon, folder);
  process.kill(pid, "SIGKILL");
  is((await client.wait({ id })).process.signal, "SIGKILL");
  const refused = client.spawn({ command: ["true"] });
  match(String(await refused.catch((error: unknown) => error)), /EROFS: cannot make a cgroup/);
  is((await client.info({})).containment, "cgroup");
});

scenarioOf("where cgroups take no orders any more, trees are ended all the same", async (scene) => {
  const { prefix, folder } = openCgroup(scene);
  const daemon = await startDaemon(scene, { prefix: [...prefix, "unshare", "--mount"] });
  const client = await daemon.connect();
  const command = testProgram("ignores-term.sh");
  const stubborn = await spawnReady(client, command);
  const other = await spawnReady(client, command, { graceMs: 100 });
  await client.pause({ id: stubborn.id });
  makeReadOnly(daemon, folder);
  const members = (await client.status({ id: stubborn.id })).members.map(({ pid }) => pid);
  const { forced, ended } = await client.terminate({ id: stubborn.id, graceMs: 100 });
  equal([forced, ended, members.filter(isAlive)], [true, members.length, []]);
  daemon.child.kill("SIGTERM");
  equal([await daemon.exited, isAlive(other.pid)], [0, false]);
});

scenarioOf(
  "whoever else freezes or thaws a tree, resume and pause mean what they say",
  async (scene) => {
    const client = await (await startDaemon(scene)).connect();
    const { id, pid } = await spawnReady(client, ["sh", "-c", "echo ready; exec sleep 1000"]);
    const file = join(cgroupOf(pid) ?? "", "cgroup.freeze");
    await client.pause({ id });
    writeFileSync(file, "0");
    await until("somebody has thawed it", () => !isPaused(pid));
    await client.pause({ id });
    is(isPaused(pid), true);
    await client.resume({ id });
    writeFileSync(file, "1");
    await until("somebody has frozen it", () => isPaused(pid));
    await client.resume({ id });
    await until("it runs", () => !isPaused(pid));
    equal((await client.terminate({ id })).forced, false);
  },
);

scenarioOf(
  "who lives in a cgroup that is not to be seen any more is adopted all the same",
  async (scene) => {
    const first = await startDaemon(scene);
    const script = "setsid sleep 1000 & echo ready; exec sleep 1000";
    const before = await first.connect();
    const { id, pid } = await spawnReady(before, ["sh", "-c", script], { strays: "keep" });
    process.kill(pid, "SIGKILL");
    const [stray] = await until("its stray alone lives", async () => {
      const { members } = await before.status({ id });
      return members.length === 1 && members;
    });
    await crash(first);
    const unmount = ["unshare", "--mount", "sh", "-c", 'umount -a -t cgroup2 && exec "$@"', "sh"];
    const client = await (await startDaemon(scene, { prefix: unmount })).connect();
    const now = await client.status({ id });
    equal([now.status, now.members.map((member) => member.pid)], ["running", [stray?.pid]]);
    is((await client.terminate({ id })).ended, 1);
    is(isAlive(stray?.pid ?? 0), false);
  },
);

scenarioOf("of a tree whose cgroup has gone nobody is looked for elsewhere", async (scene) => {
  const first = await startDaemon(scene);
  const command = ["sh", "-c", "echo ready; exec sleep 1000"];
  const { id, pid } = await spawnReady(await first.connect(), command);
  const room = cgroupOf(pid) ?? "";
  // As whatever keeps a daemon of its own hands an environment on.
  const env = { ...process.env, PROCSUP_ID: id, PROCSUP_SOCKET: first.socket };
  const stranger = spawn("sleep", ["1000"], { env, detached: true, stdio: "ignore" });
  scene.after(() => void stranger.kill("SIGKILL"));
  await crash(first);
  process.kill(pid, "SIGKILL");
  await until("its cgroup can be removed", () => whyNot(["rmdir", room]) === null);
  const client = await (await startDaemon(scene)).connect();
  equal((await client.status({ id })).status, "exited");
  equal(
    (await client.strays({})).strays.map((one) => one.pid),
    [stranger.pid],
  );
  equal([isAlive(stranger.pid ?? 0), stranger.signalCode], [true, null]);
});
