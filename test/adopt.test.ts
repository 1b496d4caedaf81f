// What a later daemon knows of the processes of one that was killed: everything, and nobody else's.

import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, ok } from "uvu/assert";
import { hold, signalGroup } from "../daemon/kernel/pidfd.js";
import { holdAdopted } from "../daemon/tree/leader.js";
import { containments, isPaused } from "./cage.js";
import { kindOf, spawnReady, testProgram } from "./commands.js";
import { crash, type Daemon, rewriteJournal, startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenario, statFields, until, within } from "./scenario.js";

for (const containment of containments) {
  const args = ["--containment", containment];
  const start = (scene: Scene) => startDaemon(scene, { args });
  const restart = async (scene: Scene, daemon: Daemon) => {
    await crash(daemon);
    return startDaemon(scene, { args });
  };

  scenario(
    `${containment}: whoever lives is adopted, as it was, and behaves as ever`,
    async (scene) => {
      const first = await start(scene);
      const before = await first.connect();
      const command = testProgram("reports-hup.sh");
      const { id, pid } = await spawnReady(before, command, { name: "web", graceMs: 4_321 });
      const was = await before.status({ id });
      const client = await (await restart(scene, first)).connect();
      // Whoever inherits orphans is its parent now; nothing else has changed.
      const [leader] = was.members;
      const now = await client.status({ name: "web" });
      const { ppid, state } = leader ?? {};
      equal({ ...now.members[0], ppid, state }, leader);
      equal({ ...now, members: was.members }, was);
      equal((await client.strays({})).strays, []);
      await client.signal({ pid, signal: "SIGHUP" });
      await until("it hears", async () => (await client.logs({ id })).text.includes("hup"));
      await client.pause({ id });
      await until("it stands still", () => isPaused(pid));
      await client.resume({ id });
      is(isPaused(pid), false);
      const { length } = (await client.status({ id })).members;
      is((await client.usage({ id })).tree.members, length);
      const { exitCode, signal, ended } = await client.terminate({ id });
      equal([exitCode, signal, ended, isAlive(pid)], [null, "SIGTERM", length, false]);
    },
  );

  scenario(
    `${containment}: an adopted leader's own end is seen, code and signal`,
    async (scene) => {
      const first = await start(scene);
      const before = await first.connect();
      const file = join(scene.folder, "terms");
      const coded = await spawnReady(before, testProgram("counts-term.sh", file));
      const killed = await before.spawn({ command: ["sleep", "1000"] });
      const client = await (await restart(scene, first)).connect();
      process.kill(coded.pid, "SIGUSR1");
      process.kill(killed.pid ?? 0, "SIGSEGV");
      const one = await client.wait({ id: coded.id });
      equal([one.process.status, one.process.exit, one.process.exitCode], ["exited", "code", 7]);
      const other = await client.wait({ id: killed.id });
      equal([other.process.status, other.process.signal], ["exited", "SIGSEGV"]);
      const { status } = await client.status({ id: coded.id });
      equal([status, isAlive(coded.pid)], ["exited", false]);
    },
  );

  scenario(`${containment}: who ended while no daemon lived has ended unseen`, async (scene) => {
    const first = await start(scene);
    const { id, pid } = await (await first.connect()).spawn({ command: ["sleep", "1000"] });
    await crash(first);
    process.kill(pid ?? 0, "SIGKILL");
    await until("it is gone", () => !existsSync(`/proc/${pid}`));
    const client = await (await start(scene)).connect();
    const { status, exit, exitCode, signal, endedAt } = await client.status({ id });
    equal([status, exit, exitCode, signal], ["exited", "unknown", null, null]);
    ok(endedAt);
    is(await kindOf(client.terminate({ id })), "already_terminated");
  });

  scenario(`${containment}: an end under way goes on where it stood`, async (scene) => {
    const first = await start(scene);
    const before = await first.connect();
    const file = join(scene.folder, "terms");
    const { id, pid } = await spawnReady(before, testProgram("counts-term.sh", file));
    await before.terminate({ id, graceMs: 60_000, wait: false });
    await until("it was told", () => existsSync(file));
    await until("that is on record", () => journalOf(first).includes('"warned"'));
    const second = await restart(scene, first);
    const client = await second.connect();
    const all = client.terminate({ id });
    is((await client.status({ id })).status, "stopping");
    process.kill(pid, "SIGUSR1");
    const { exitCode, forced } = await all;
    equal([exitCode, forced, readFileSync(file, "utf8")], [7, false, "term\n"]);
  });

  scenario(`${containment}: a grace that runs out meanwhile ends in KILL`, async (scene) => {
    const first = await start(scene);
    const before = await first.connect();
    const { id, pid } = await spawnReady(before, testProgram("ignores-term.sh"));
    await before.terminate({ id, graceMs: 1_000, wait: false });
    const client = await (await restart(scene, first)).connect();
    const { process: ended } = await client.wait({ id });
    equal([ended.status, ended.signal, isAlive(pid)], ["terminated", "SIGKILL", false]);
  });

  scenario(`${containment}: strays of a leader that has ended are adopted too`, async (scene) => {
    const first = await start(scene);
    const before = await first.connect();
    const file = join(scene.folder, "stray");
    const { id } = await spawnReady(before, testProgram("leaves-stray.sh", file), {
      strays: "keep",
    });
    const stray = Number(readFileSync(file, "utf8"));
    await until("its leader has ended", async () => {
      const { members, exitCode } = await before.status({ id });
      return members.length === 1 && exitCode === 5;
    });
    const client = await (await restart(scene, first)).connect();
    const now = await client.status({ id });
    equal([now.status, now.exitCode, now.members.map((one) => one.pid)], ["running", 5, [stray]]);
    const { exitCode, ended } = await client.terminate({ id });
    equal([exitCode, ended, isAlive(stray)], [5, 1, false]);
  });

  scenario(
    `${containment}: what was started but not recorded is found by its signs`,
    async (scene) => {
      const first = await start(scene);
      const before = await first.connect();
      const { id, pid } = await spawnReady(before, testProgram("forks-child.sh"));
      const gone = await before.spawn({ command: ["sleep", "1000"] });
      await crash(first);
      process.kill(gone.pid ?? 0, "SIGKILL");
      rewriteJournal(first.state, (value) => (value.events === undefined ? value : null));
      const client = await (await start(scene)).connect();
      const found = await client.status({ id });
      equal([found.status, found.pid, found.members.length], ["running", pid, 2]);
      equal((await client.strays({})).strays, []);
      const lost = await client.status({ id: gone.id });
      equal([lost.status, lost.pid, lost.exitCode], ["lost", null, null]);
      is((await client.terminate({ id })).ended, 2);
    },
  );

  scenario(
    `${containment}: a number that is a stranger's now, or of another boot, is left alone`,
    async (scene) => {
      const first = await start(scene);
      const before = await first.connect();
      const reused = await before.spawn({ command: ["sleep", "1000"] });
      const rebooted = await before.spawn({ command: ["sleep", "1000"] });
      await crash(first);
      process.kill(reused.pid ?? 0, "SIGKILL");
      const stranger = spawn("sleep", ["1000"], { stdio: "ignore" });
      scene.after(() => void stranger.kill("SIGKILL"));
      rewriteJournal(first.state, (value) => {
        const text = JSON.stringify(value);
        const changed =
          value.id === reused.id
            ? text.replace(`"pid":${reused.pid}`, `"pid":${stranger.pid}`)
            : text.replace(/"boot":"[^"]+"/, '"boot":"another"');
        return JSON.parse(changed) as object;
      });
      const client = await (await start(scene)).connect();
      const statuses = [reused, rebooted].map(
        async ({ id }) => (await client.status({ id })).status,
      );
      equal(await Promise.all(statuses), ["exited", "lost"]);
      for (const { id } of [reused, rebooted]) {
        is(await kindOf(client.terminate({ id, force: true })), "already_terminated");
        is(await kindOf(client.signal({ id, signal: "SIGKILL" })), "already_terminated");
        is(await kindOf(client.pause({ id })), "already_terminated");
      }
      equal([stranger.pid ?? 0, rebooted.pid ?? 0].map(isAlive), [true, true]);
      equal((await client.strays({ end: true })).ended, 1);
      is(isAlive(stranger.pid ?? 0), true);
    },
  );
}

scenario("what an earlier version has let in lives on", async (scene) => {
  const first = await startDaemon(scene);
  const { id } = await (await first.connect()).spawn({ command: ["sleep", "1000"] });
  await crash(first);
  rewriteJournal(first.state, (value) => {
    if (!("spec" in value)) return value;
    return { ...value, spec: { ...Object(value.spec), command: ["sleep", "1000", "\ud800"] } };
  });
  const client = await (await startDaemon(scene)).connect();
  equal((await client.status({ id })).status, "running");
});

scenario("a leader that was reaped at once has ended all the same", async (scene) => {
  // Whose CHLD is ignored has its children reaped by the kernel, before anybody sees a zombie.
  const script = "sleep 1000 & echo $!; exec env --ignore-signal=CHLD sleep 1000";
  const parent = spawn("sh", ["-c", script], { stdio: ["ignore", "pipe", "ignore"] });
  scene.after(() => void parent.kill("SIGKILL"));
  const pid = Number(await new Promise((said) => parent.stdout.once("data", said)));
  scene.after(() => void (isAlive(pid) && process.kill(pid, "SIGKILL")));
  const name = () => readFileSync(`/proc/${parent.pid}/comm`, "utf8");
  await until("its parent ignores that", () => name() === "sleep\n");
  const leader = holdAdopted(pid, hold(pid) ?? -1);
  process.kill(pid, "SIGSEGV");
  await within(2_000, "its end is told", () => leader.exited);
  is(existsSync(`/proc/${pid}`), false);
  ok(leader.exit?.by === "unknown" || leader.exit?.by === "signal");
  leader.release();
});

scenario(
  "a leader that is a zombie has ended at once, and its pidfd still names its group",
  async (scene) => {
    // It ends once its parent has become a program that reaps nobody.
    const script = "setsid sh -c 'sleep 1000 & kill -STOP $$; exit 3' & echo $!; exec sleep 1000";
    const parent = spawn("sh", ["-c", script], { stdio: ["ignore", "pipe", "ignore"] });
    scene.after(() => void parent.kill("SIGKILL"));
    const pid = Number(await new Promise((said) => parent.stdout.once("data", said)));
    scene.after(() => void process.kill(-pid, "SIGKILL"));
    const name = () => readFileSync(`/proc/${parent.pid}/comm`, "utf8");
    await until("both are so far", () => name() === "sleep\n" && isPaused(pid));
    process.kill(pid, "SIGCONT");
    await until("it is a zombie", () => statFields(pid)?.[0] === "Z");
    const leader = holdAdopted(pid, hold(pid) ?? -1);
    equal(leader.exit, { by: "code", code: 3 });
    await leader.exited;
    is(signalGroup(leader, null), "sent");
    leader.release();
  },
);

function journalOf({ state }: Daemon): string {
  return readFileSync(join(state, "journal"), "utf8");
}

for (const containment of containments) {
  scenario(
    `${containment}: a paused tree is adopted as such, and goes on when resumed`,
    async (scene) => {
      const args = ["--containment", containment];
      const first = await startDaemon(scene, { args });
      const before = await first.connect();
      const { id, pid } = await before.spawn({ command: ["sleep", "1000"] });
      await before.pause({ id });
      await until("it is paused", () => isPaused(pid ?? 0));
      await crash(first);
      const client = await (await startDaemon(scene, { args })).connect();
      is(isPaused(pid ?? 0), true);
      await client.resume({ id });
      await until("it goes on", () => !isPaused(pid ?? 0));
      is((await client.terminate({ id })).forced, false);
    },
  );
}

scenario(
  "of a grace there is left what the shortest wish has left, after a crash too",
  async (scene) => {
    const first = await startDaemon(scene);
    const before = await first.connect();
    const file = join(scene.folder, "terms");
    const { id } = await spawnReady(before, testProgram("counts-term.sh", file));
    await before.terminate({ id, graceMs: 60_000, wait: false });
    const journal = () => readFileSync(join(first.state, "journal"), "utf8");
    await until("it is warned", () => existsSync(file) && journal().includes('"warned"'));
    await before.terminate({ id, graceMs: 2_000, wait: false });
    await before.terminate({ id, graceMs: 60_000, wait: false });
    await crash(first);
    const client = await (await startDaemon(scene)).connect();
    const { process: ended } = await client.wait({ id });
    equal(
      [ended.status, ended.signal, readFileSync(file, "utf8")],
      ["terminated", "SIGKILL", "term\n"],
    );
  },
);
