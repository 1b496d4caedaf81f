// What is said to a service manager and taken from it: a manager of our own listens.

import { closeSync, fstatSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match, not } from "uvu/assert";
import { readUnit } from "../daemon/runtime/settings.js";
import { connectManager, feedWatchdog, reloading } from "../daemon/runtime/systemd.js";
import { crash, launchDaemon, startDaemon } from "./daemon.js";
import { type Receiver, receiveAt } from "./receiver.js";
import { type Scene, scenario, until } from "./scenario.js";

const unitAt = (notifySocket: string) => readUnit({ NOTIFY_SOCKET: notifySocket }, 1);

for (const kind of ["path", "abstract"] as const) {
  scenario(`the manager is told, at a socket that is ${kind}`, async ({ folder, after }) => {
    const place = kind === "path" ? join(folder, "notify") : `@${folder}`;
    const receiver = receiveAt({ folder, after }, place);
    const manager = connectManager(unitAt(place), () => "two");
    is(manager.tell("READY=1", "STATUS=one"), true);
    equal(await receiver.next("READY"), { text: "READY=1\nSTATUS=one", fds: [] });
    manager.statusChanged();
    manager.statusChanged();
    is((await receiver.next("STATUS")).text, "STATUS=two");
  });
}

scenario("descriptors are handed over, one or more, by name", async ({ folder, after }) => {
  const place = join(folder, "notify");
  const receiver = receiveAt({ folder, after }, place);
  const manager = connectManager(unitAt(place), () => "");
  const own = ["/dev/null", "/dev/zero", "/dev/full"].map((path) => openSync(path, "r"));
  for (const count of [1, 2, 3]) {
    is(manager.store("web", own.slice(0, count)), true);
    const { text, fds } = await receiver.next("FDSTORE=1");
    is(text, "FDSTORE=1\nFDNAME=web\nFDPOLL=0");
    equal(
      fds.map((fd) => fstatSync(fd).rdev),
      own.slice(0, count).map((fd) => fstatSync(fd).rdev),
    );
    fds.forEach(closeSync);
  }
  own.forEach(closeSync);
  manager.unstore("web");
  is((await receiver.next("FDSTOREREMOVE=1")).text, "FDSTOREREMOVE=1\nFDNAME=web");
});

scenario("a barrier is passed once the manager closes what it got", async ({ folder, after }) => {
  const place = join(folder, "notify");
  const receiver = receiveAt({ folder, after }, place);
  const manager = connectManager(unitAt(place), () => "");
  is(await manager.settled(20), false);
  (await receiver.next("BARRIER=1")).fds.forEach(closeSync);
  const settled = manager.settled(5_000);
  const { text, fds } = await receiver.next("BARRIER=1");
  is(text, "BARRIER=1");
  fds.forEach(closeSync);
  is(await settled, true);
});

scenario("the watchdog is fed at half its time", async ({ folder, after }) => {
  const place = join(folder, "notify");
  const receiver = receiveAt({ folder, after }, place);
  const env = { NOTIFY_SOCKET: place, WATCHDOG_USEC: "40000", WATCHDOG_PID: "7" };
  equal(readUnit(env, 8).watchdogMs, null);
  const unit = readUnit(env, 7);
  equal(unit.watchdogMs, 40);
  feedWatchdog(
    unit,
    connectManager(unit, () => ""),
  );
  for (let times = 0; times < 3; times++) await receiver.next("WATCHDOG=1");
});

scenario("a reload begins with the time of its beginning", () => {
  const [word, stamp = ""] = reloading();
  is(word, "RELOADING=1");
  is(/^MONOTONIC_USEC=[0-9]+$/.test(stamp), true);
});

scenario("without a manager, or with one that is gone, nothing happens", async ({ folder }) => {
  const alone = connectManager(readUnit({}, 1), () => "");
  const orphaned = connectManager(unitAt(join(folder, "nobody")), () => "");
  for (const manager of [alone, orphaned]) {
    is(manager.tell("READY=1"), false);
    is(manager.store("web", [0]), false);
    is(await manager.settled(1_000), false);
    manager.statusChanged();
  }
});

scenario("descriptors are taken by name, and only those meant for this process", () => {
  const env = { LISTEN_PID: "7", LISTEN_FDS: "4", LISTEN_FDNAMES: "procsup:p1:p1" };
  const expected: [string, number[]][] = [
    ["procsup", [3]],
    ["p1", [4, 5]],
    ["unknown", [6]],
  ];
  equal([...readUnit(env, 7).fds], expected);
  equal([...readUnit(env, 8).fds], []);
  equal([...readUnit({ ...env, LISTEN_FDS: "-1" }, 7).fds], []);
});

/** A daemon that was told to report to `receiver`, and what its manager would have set besides. */
async function startUnderManager(scene: Scene, args: string[] = []) {
  const place = join(scene.folder, "notify");
  const receiver = receiveAt(scene, place);
  const env = { NOTIFY_SOCKET: place, WATCHDOG_USEC: "5000000", LISTEN_FDS: "1", LISTEN_PID: "1" };
  // Not cgroups: it would leave a leaf behind in a cgroup that is not its unit's.
  const daemon = await startDaemon(scene, { env, args: ["--containment", "group", ...args] });
  return { daemon, receiver, place };
}

/** Until the manager at `place`, which reads nothing meanwhile, is behind. */
async function fillQueue(place: string): Promise<void> {
  const other = connectManager(unitAt(place), () => "");
  await until("the queue is full", () => !other.tell("X=1"));
}

const lineOf = async (receiver: Receiver, part: string) => (await receiver.next(part)).text;

scenario("the daemon says when it is ready, what it holds, and that it goes", async (scene) => {
  const { daemon, receiver } = await startUnderManager(scene);
  is(await lineOf(receiver, "READY=1"), "READY=1\nSTATUS=no processes");
  const client = await daemon.connect();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  is(await lineOf(receiver, "STATUS"), "STATUS=1 running");
  await client.terminate({ id });
  is(await lineOf(receiver, "STATUS=no"), "STATUS=no processes");
  daemon.child.kill("SIGTERM");
  is(await lineOf(receiver, "STOPPING"), "STOPPING=1");
});

scenario("a manager that takes its time stops no daemon that recovers", async (scene) => {
  const place = join(scene.folder, "notify");
  const receiver = receiveAt(scene, place);
  const env = { NOTIFY_SOCKET: place };
  const first = await startDaemon(scene, { env });
  await receiver.next("READY=1");
  const client = await first.connect();
  const spawns = [1, 2].map(() => client.spawn({ command: ["sleep", "1000"] }));
  const spawned = await Promise.all(spawns);
  await crash(first);
  for (const { pid } of spawned) process.kill(pid ?? 0, "SIGKILL");
  // Each message to a full queue holds the daemon up: its status is due before it has recovered.
  await fillQueue(place);
  const second = launchDaemon(scene, { env });
  await until("it goes on", () => second.log.some((line) => line.includes('"recovered"')));
  await until("it serves", () => second.log.some((line) => line.includes('"ready"')));
  // It answers once it has given up to wait for the manager, which is told for all that.
  is((await (await second.connect()).list({ all: true })).processes.length, 2);
  match((await receiver.next("READY=1")).text, /STATUS=no processes/);
});

scenario("a signal that comes while the manager takes its time ends no daemon", async (scene) => {
  const { daemon, receiver, place } = await startUnderManager(scene);
  const client = await daemon.connect();
  await fillQueue(place);
  daemon.child.kill("SIGHUP");
  const waitsIn = () => readFileSync(`/proc/${daemon.pid}/wchan`, "utf8");
  await until("it waits for the manager", () => /unix|sock/.test(waitsIn()));
  daemon.child.kill("SIGHUP");
  is((await client.info({})).containment, "group");
  // The last word is that it is ready: else it would count as reloading for ever.
  for (const part of ["RELOADING=1", "RELOADING=1", "READY=1"]) {
    match((await receiver.next(part)).text, new RegExp(`^${part}`));
  }
});

scenario(
  "what is to be kept for the next daemon waits for a manager that is behind",
  async (scene) => {
    const { daemon, receiver, place } = await startUnderManager(scene);
    const client = await daemon.connect();
    await fillQueue(place);
    const ids: string[] = [];
    for (const command of [["sleep", "1000"], ["sleep", "1000"], ["true"]]) {
      const { id } = await client.spawn({ command });
      if (command.length === 1) await client.wait({ id });
      else ids.push(id);
    }
    for (const id of ids) {
      const { text, fds } = await receiver.next("FDSTORE=1");
      equal([text.split("\n")[1], fds.length], [`FDNAME=${id}`, 1]);
      fds.forEach(closeSync);
    }
    match((await receiver.next("FDSTORE")).text, /^FDSTOREREMOVE=1/);
  },
);

scenario("a manager that cannot be reached is none", async (scene) => {
  const env = { NOTIFY_SOCKET: "/dev/null/notify" };
  const daemon = await startDaemon(scene, { env });
  const { id } = await (await daemon.connect()).spawn({ command: ["sleep", "1000"] });
  match(id, /^p/);
  const state = join(scene.folder, "other");
  const vain = launchDaemon(scene, { env, state, args: ["--log-level", "loud"] });
  equal([await vain.exited, vain.log.length], [78, 1]);
});

scenario("what the manager has told the daemon does not reach a process", async (scene) => {
  const { daemon } = await startUnderManager(scene);
  const { pid } = await (await daemon.connect()).spawn({ command: ["sleep", "1000"] });
  const own = readFileSync(`/proc/${daemon.pid}/environ`, "utf8");
  match(own, "NOTIFY_SOCKET");
  not.match(readFileSync(`/proc/${pid}/environ`, "utf8"), /NOTIFY_SOCKET|WATCHDOG_|LISTEN_/);
});

scenario("a reload takes new settings, refuses bad ones, and touches no process", async (scene) => {
  const config = join(scene.folder, "config.json");
  writeFileSync(config, "{}");
  const { daemon, receiver } = await startUnderManager(scene, ["--config", config]);
  const client = await daemon.connect();
  const { id, pid } = await client.spawn({ command: ["sleep", "1000"] });
  const reload = async (settings: string) => {
    writeFileSync(config, settings);
    daemon.child.kill("SIGHUP");
    match(await lineOf(receiver, "RELOADING"), /^RELOADING=1\nMONOTONIC_USEC=[0-9]+$/);
    is(await lineOf(receiver, "READY"), "READY=1");
    return (await client.info({})).limits["historyCount"];
  };
  is(await reload('{"historyCount": 7}'), 7);
  is(await reload('{"historyCount": "many"}'), 7);
  await until("it says why", () => daemon.log.some((line) => line.includes("historyCount")));
  is(await reload('{"historyCount": 7, "users": {"*": {"processes": 1}}}'), 7);
  await until("it says what waits for the next start", () =>
    daemon.log.some((line) => line.includes("a new users takes effect at the next start")),
  );
  is(await reload('{"historyCount": 8, "logLevel": "error"}'), 8);
  equal(
    [(await client.status({ id })).status, pid],
    ["running", (await client.status({ id })).pid],
  );
  await client.terminate({ id });
  is(
    daemon.log.some((line) => line.includes('"terminated"')),
    false,
  );
  await reload("{}"); // or the clean-up would not see it stop
});

scenario("a daemon that cannot start says why in its status", async (scene) => {
  const place = join(scene.folder, "notify");
  const receiver = receiveAt(scene, place);
  const first = await startDaemon(scene);
  const env = { NOTIFY_SOCKET: place };
  const second = launchDaemon(scene, { env, socket: join(scene.folder, "t"), state: first.state });
  is(await second.exited, 78);
  match(await lineOf(receiver, "STATUS"), /cannot start: .*another procsupd uses the state/);
});
