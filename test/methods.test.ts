// What the other methods promise, each seen in the kernel or in the files.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, ok } from "uvu/assert";
import type { Client, Event } from "../client/client.js";
import { limits } from "../client/wire.js";
import { containments, isPaused } from "./cage.js";
import { createLatch, kindOf, spawnReady, testProgram } from "./commands.js";
import { call, startDaemon, theDaemonGoes, visitDaemon } from "./daemon.js";
import { isAlive, scenario, statFields, until } from "./scenario.js";

async function startForking(client: Client) {
  const { id, pid } = await client.spawn({ command: testProgram("forks-child.sh") });
  const text = await until("ready", async () => {
    const slice = await client.logs({ id });
    return slice.text.endsWith("\n") && slice.text;
  });
  return { id, pid: pid ?? 0, child: Number(text.split(" ")[1]) };
}

scenario("status lists the living members as the kernel has them", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id, pid, child } = await startForking(client);
  const { members } = await client.status({ id });
  equal(
    members.map((one) => [one.pid, one.ppid]),
    [
      [pid, members[0]?.ppid],
      [child, pid],
    ],
  );
  await until("the child has called exec", async () => {
    return (await client.status({ id })).members[1]?.command === "sleep 1000";
  });
  process.kill(child, "SIGKILL");
  await until("one member is left", async () => (await client.status({ id })).members.length <= 1);
});

scenario(
  "a status told in the same turn as an end that was asked for knows of it",
  async (scene) => {
    const daemon = await visitDaemon(scene);
    const client = await daemon.connect();
    const known = async () => {
      const raw = await daemon.raw();
      for (let n = 0; n < 8; n++) ok((await raw.ask(call("list", { status: "lost" }))).result);
      return raw;
    };
    const pair = async () => [await known(), await known()] as const;
    const pairs = await Promise.all(Array.from({ length: 10 }, pair));
    // By then they are known for short calls, which need not wait for a turn of their own.
    const ids: string[] = [];
    for (const _ of pairs) ids.push((await client.spawn({ command: ["sleep", "1000"] })).id);
    let inOneTurn = 0;
    for (const [at, [early, late]] of pairs.entries()) {
      const id = ids[at];
      // What is sent while it stands still, it reads in one turn, in this order.
      process.kill(daemon.pid, "SIGSTOP");
      early.write(`${JSON.stringify(call("status", { id }))}\n`);
      const lines = [call("terminate", { id, wait: false }), call("status", { id }, 2)];
      late.write(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
      process.kill(daemon.pid, "SIGCONT");
      const first = (await early.next()).result?.["status"];
      const replies = [await late.next(), await late.next()];
      if (first !== "running") continue; // on busy cores it may have to wait for a turn all the same
      inOneTurn += 1;
      const [asked, after] = replies.map(({ result }) => result?.["status"]);
      is(asked, "stopping");
      ok(after === "stopping" || after === "terminated", String(after)); // or in the turn after
    }
    ok(inOneTurn > 0);
  },
);

for (const containment of containments) {
  scenario(`${containment}: status tells whatever has changed since the last`, async (scene) => {
    const args = ["--containment", containment];
    const client = await (await startDaemon(scene, { args })).connect();
    const latch = createLatch(scene);
    const script = 'echo ready; read -r _ <"$0"; sleep 1000 & exec sleep 1001';
    const { id, pid } = await spawnReady(client, ["sh", "-c", script, latch.path]);
    const told = async () => (await client.status({ id })).members;
    await until("the shell waits", () => statFields(pid)?.[0] === "S");
    const before = await told();
    const [shell] = before;
    equal([shell?.state, shell?.command], ["S", `sh -c ${script} ${latch.path}`]);
    equal(await told(), before);
    latch.open();
    const childOf = () => parseInt(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8"), 10);
    const runs = (one: number) => readFileSync(`/proc/${one}/cmdline`, "utf8").split("\0")[0];
    await until("both sleep", () => runs(pid) === "sleep" && runs(childOf()) === "sleep");
    const child = childOf();
    const after = (await told()).map((one) => [one.pid, one.ppid, one.command]);
    equal(
      after.sort(),
      [
        [pid, shell?.ppid, "sleep 1001"],
        [child, pid, "sleep 1000"],
      ].sort(),
    );
    process.kill(pid, "SIGSTOP");
    await until("it is stopped", () => statFields(pid)?.[0] === "T");
    is((await told()).find((one) => one.pid === pid)?.state, "T");
    process.kill(child, "SIGKILL");
    await until("the child is gone", () => !isAlive(child));
    const left = (await told()).map((one) => one.pid);
    equal(left, [pid]);
  });
}

scenario("a tree whose members have no room left beside its command is told of", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const fifo = join(scene.folder, "fifo");
  const forks = "while [ $n -lt 900 ]; do (read -r x <&9) & n=$((n + 1)); done";
  const script = `mkfifo "$0"; exec 9<>"$0"; n=0; ${forks}; echo ready; wait`;
  const words = Array.from({ length: 8 }, () => "w".repeat(118 * 1024));
  const { id } = await spawnReady(client, ["sh", "-c", script, fifo, ...words]);
  const { members } = await client.status({ id });
  is(members.length, 901);
  is((await client.terminate({ id, force: true })).ended, 901);
});

for (const containment of containments) {
  scenario(`${containment}: pause holds every member, resume lets it go on`, async (scene) => {
    const args = ["--containment", containment];
    const client = await (await startDaemon(scene, { args })).connect();
    const { id, pid, child } = await startForking(client);
    is((await client.pause({ id })).status, "running");
    await until("both are paused", () => [pid, child].every(isPaused));
    await client.resume({ id });
    await until("both go on", () => ![pid, child].some(isPaused));
    await client.pause({ id });
    // A paused tree runs its handlers when it is told to end: TERM is not KILL.
    is((await client.terminate({ id })).forced, false);
  });
}

for (const containment of containments) {
  scenario(`${containment}: a pause that is asked for behind a resume holds`, async (scene) => {
    const daemon = await startDaemon(scene, { args: ["--containment", containment] });
    const client = await daemon.connect();
    const script =
      "n=0; while [ $n -lt 300 ]; do sleep 1000 & n=$((n + 1)); done; echo ready; wait";
    const { id } = await spawnReady(client, ["sh", "-c", script]);
    const pids = (await client.status({ id })).members.map(({ pid }) => pid);
    await client.pause({ id });
    const raw = await daemon.raw();
    const lines = [call("resume", { id }), call("pause", { id }, 2)];
    raw.write(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    equal(new Set([(await raw.next()).id, (await raw.next()).id]), new Set([1, 2]));
    equal(pids.length, 301);
    // One that waits for a core stops once it has it: the kernel's own delay.
    await until("all of them are held", () => pids.every(isPaused));
    await client.terminate({ id, force: true });
  });
}

scenario("a signal goes to the leader alone, or to every member", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const one = await startForking(client);
  equal(await client.signal({ id: one.id, signal: "SIGSTOP" }), { signaled: 1 });
  await until("the leader is stopped", async () => {
    return (await client.status({ id: one.id })).members.map(({ state }) => state).join() === "T,S";
  });
  equal(await client.signal({ id: one.id, signal: "SIGKILL", to: "tree" }), { signaled: 2 });
  const { process } = await client.wait({ id: one.id });
  equal([process.status, process.signal, isAlive(one.child)], ["exited", "SIGKILL", false]);
});

scenario("who is not there any more is neither signalled nor paused", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id } = await client.spawn({ command: ["true"] });
  await client.wait({ id });
  is(await kindOf(client.signal({ id, signal: "SIGHUP" })), "already_terminated");
  is(await kindOf(client.pause({ id })), "already_terminated");
  is(await kindOf(client.resume({ id })), "already_terminated");
  is(await kindOf(client.usage({ id })), "already_terminated");
  is(await kindOf(client.status({ pid: 2 ** 31 - 1 })), "process_not_found");
  is(await kindOf(client.status({ id: "p000000000000" })), "process_not_found");
  is(await kindOf(client.wait({ name: "nobody" })), "process_not_found");
});

scenario("wait answers at the end, or when its time is over", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  const early = await client.wait({ id, timeoutMs: 10 });
  equal([early.ended, early.process.status], [false, "running"]);
  const waiting = client.wait({ id });
  await client.terminate({ id });
  equal([(await waiting).ended, (await waiting).process.status], [true, "terminated"]);
  is((await client.wait({ id, timeoutMs: 0 })).ended, true);
});

scenario("exit codes and signals are the kernel's", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const endOf = async (script: string) => {
    const { id } = await client.spawn({ command: ["sh", "-c", script] });
    const { process } = await client.wait({ id });
    return [process.status, process.exitCode, process.signal];
  };
  equal(await endOf("exit 0"), ["exited", 0, null]);
  equal(await endOf("exit 255"), ["exited", 255, null]);
  equal(await endOf("kill -SEGV $$"), ["exited", null, "SIGSEGV"]);
});

scenario("usage measures the leader and the tree while it runs", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const busy = ["sh", "-c", "sh -c 'while :; do :; done' & while :; do :; done"];
  const { id, pid } = await client.spawn({ command: busy });
  const { id: idle } = await client.spawn({ command: ["sleep", "1000"] });
  const [one, two] = await Promise.all([client.usage({ id }), client.usage({ id: idle })]);
  equal([one.pid, one.tree.members, two.tree.members], [pid, 2, 1]);
  ok((one.leader?.cpuPercent ?? 0) > 1, "a busy loop shows");
  ok(one.tree.cpuPercent > (one.leader?.cpuPercent ?? 0), "the tree counts its child");
  is(two.leader?.cpuPercent, 0);
  ok(two.tree.rssBytes > 100_000);
});

scenario("a thousand usage calls leave no descriptor behind", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const descriptors = () => readdirSync(`/proc/${daemon.pid}/fd`).length;
  await client.info({});
  const before = descriptors();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  await Promise.all(Array.from({ length: 1_000 }, () => client.usage({ id })));
  await client.terminate({ id });
  // One more may stay, that by which outputs at rest are watched.
  await until("pidusage has let go", () => descriptors() <= before + 1, 12_000);
});

scenario("a subscriber hears every change of status, of one process or of all", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const events: Event[] = [];
  client.onEvent((event) => events.push(event));
  const { subscription } = await client.subscribe({});
  const first = await client.spawn({ command: ["sleep", "1000"] });
  await client.subscribe({ id: first.id });
  const second = await client.spawn({ command: ["true"] });
  await client.wait({ id: second.id });
  await client.terminate({ id: first.id });
  const heard = (wanted: string, id: string) =>
    events.flatMap((event) =>
      event.event === "status" && event.subscription === wanted && event.process.id === id
        ? [event.process.status]
        : [],
    );
  await until("the last change is heard", () => heard(subscription, first.id).length === 3);
  equal(heard(subscription, first.id), ["running", "stopping", "terminated"]);
  equal(heard(subscription, second.id), ["running", "exited"]);
  const other = events.map((event) => event.subscription).find((id) => id !== subscription) ?? "";
  equal(heard(other, first.id), ["stopping", "terminated"]);
  equal(heard(other, second.id), []);
  is((await client.unsubscribe({ subscription })).unsubscribed, true);
  is((await client.unsubscribe({ subscription })).unsubscribed, false);
  const { length } = events;
  const third = await client.spawn({ command: ["true"] });
  await client.wait({ id: third.id });
  is(events.length, length);
});

scenario("who subscribes to a process that has ended is told of its end", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id } = await client.spawn({ command: ["sh", "-c", "echo gone; exit 3"] });
  const { process } = await client.wait({ id });
  for (const output of [false, true]) {
    const heard: Event[] = [];
    const forget = client.onEvent((event) => heard.push(event));
    const { subscription } = await client.subscribe({ id, output });
    await until("it is told", () => heard.length > 0);
    equal(heard, [{ event: "status", subscription, process }]);
    forget();
  }
});

scenario("a connection may hold its limit of subscriptions and not one more", async (scene) => {
  const { ask } = await (await visitDaemon(scene)).raw();
  const subscribe = () => ask(call("subscribe"));
  const { subscription } = (await subscribe()).result ?? {};
  for (let n = 1; n < limits.subscriptions; n++) ok((await subscribe()).result);
  is((await subscribe()).error?.data?.["limit"], "subscriptions");
  ok((await ask(call("unsubscribe", { subscription }))).result);
  ok((await subscribe()).result);
});

scenario("info says what is in force", async (scene) => {
  const daemon = await startDaemon(scene);
  const client = await daemon.connect();
  const { id } = await client.spawn({ command: ["sleep", "1000"] });
  const info = await client.info({});
  equal([info.pid, info.wire, info.strays], [daemon.pid, 1, 0]);
  is(info.containment, (await client.status({ id })).containment);
  is(info.counts["running"], 1);
  is(info.limits["lineBytes"], 1_048_576);
  is(info.limits["outputBytes"], 64 * 1024 * 1024);
  await client.terminate({ id });
  is((await client.info({})).counts["terminated"], 1);
});

theDaemonGoes();
