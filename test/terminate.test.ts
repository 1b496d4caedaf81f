// `terminate`: its answers, the ladder, its callers, and who asks at the same time.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match, ok } from "uvu/assert";
import { noCgroup } from "./cage.js";
import { refusalOf, spawnReady, testProgram } from "./commands.js";
import { call, startDaemon, theDaemonGoes, visitDaemon } from "./daemon.js";
import { bearers, isAlive, scenario, scenarioUnless, statFields, until } from "./scenario.js";

scenario("the four answers of the contract, word for word, over a bare socket", async (scene) => {
  const { raw } = await visitDaemon(scene);
  const { ask } = await raw();
  const spawned = await ask(call("spawn", { command: ["sleep", "1000"] }));
  const pid = Number(spawned.result?.["pid"]);
  const done = await ask(call("terminate", { pid }));
  equal(
    { ...done.result, timestamp: "", durationMs: 0 },
    {
      success: true,
      pid,
      status: "terminated",
      message: "Process terminated successfully",
      timestamp: "",
      id: spawned.result?.["id"],
      exitCode: null,
      signal: "SIGTERM",
      forced: false,
      ended: 1,
      durationMs: 0,
    },
  );
  match(String(done.result?.["timestamp"]), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  is(isAlive(pid), false);

  const again = (await ask(call("terminate", { pid }))).error;
  equal([again?.code, again?.message], [-32002, `Process already terminated: PID ${pid}`]);
  equal(again?.data?.["kind"], "already_terminated");
  const unknown = (await ask(call("terminate", { pid: 2 ** 31 - 1 }))).error;
  equal([unknown?.code, unknown?.message], [-32001, `Process not found: PID ${2 ** 31 - 1}`]);
  equal(unknown?.data?.["kind"], "process_not_found");
});

scenario("a handler that needs 500 ms of its grace finishes its file", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const file = join(scene.folder, "file");
  const { id } = await spawnReady(client, testProgram("slow-handler.sh", file));
  const { forced, exitCode } = await client.terminate({ id });
  equal([forced, exitCode], [false, 3]);
  is(readFileSync(file, "utf8"), "finished\n");
});

scenario("who ignores TERM is killed after the grace, and the answer says so", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id, pid } = await spawnReady(client, testProgram("ignores-term.sh"));
  const result = await client.terminate({ id, graceMs: 100 });
  equal([result.forced, result.signal, result.ended], [true, "SIGKILL", 2]);
  ok(result.durationMs >= 100);
  is(isAlive(pid), false);
});

scenario("the grace and the stop signal of the spawn are kept", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const patient = await spawnReady(client, testProgram("ignores-term.sh"), { graceMs: 50 });
  is((await client.terminate({ id: patient.id })).forced, true);
  const own = await client.spawn({ command: ["sleep", "1000"], stopSignal: "SIGUSR1" });
  is((await client.terminate({ id: own.id })).signal, "SIGUSR1");
});

scenario("a further caller with a longer grace joins, and lengthens nothing", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id, pid } = await spawnReady(client, testProgram("ignores-term.sh"));
  const first = client.terminate({ id, graceMs: 500 });
  const second = client.terminate({ id, graceMs: 60_000 });
  equal([(await first).forced, (await second).forced, isAlive(pid)], [true, true, false]);
});

scenario("a leader that ends on TERM does not end the ladder of its child", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id, pid } = await spawnReady(client, testProgram("child-ignores-term.sh"));
  const child = Number((await client.logs({ id })).text.split(" ")[1]);
  const asked = client.terminate({ id, graceMs: 300 });
  await until("the leader is gone", () => !isAlive(pid));
  is(isAlive(child), true);
  is((await client.status({ id })).status, "stopping");
  equal((await client.status({ id })).members.map((member) => member.pid).includes(child), true);
  const result = await asked;
  equal([result.forced, result.signal], [true, "SIGTERM"]);
  is(isAlive(child), false);
});

scenario("a stopped tree runs its TERM handler", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const file = join(scene.folder, "file");
  const { id } = await spawnReady(client, testProgram("stops-itself.sh", file));
  await until("it is stopped", async () => (await client.status({ id })).members[0]?.state === "T");
  const { forced, exitCode } = await client.terminate({ id });
  equal([forced, exitCode, readFileSync(file, "utf8")], [false, 0, "handled\n"]);
});

const onItsWay = "a leader that is stopped on its way into its cgroup is ended all the same";

scenarioUnless(noCgroup, onItsWay, async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const catchOne = async () => {
    const { id, pid } = await client.spawn({ command: ["sleep", "1000"] });
    process.kill(pid ?? 0, "SIGSTOP");
    await until("it is stopped", () => statFields(pid ?? 0)?.[0] === "T");
    const isCaught = !readFileSync(`/proc/${pid}/cgroup`, "utf8").includes(id);
    const { forced } = await client.terminate({ id, force: true });
    equal([forced, isAlive(pid ?? 0)], [true, false]);
    return isCaught;
  };
  // On busy cores most are inside before they are stopped.
  await until("one is caught outside", catchOne, 12_000);
});

scenario("a leader that ends by itself has the rest of its group ended", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const file = join(scene.folder, "pid");
  const { id } = await spawnReady(client, testProgram("leaves-stray.sh", file));
  const { ended, process } = await client.wait({ id });
  equal([ended, process.status, process.exitCode], [true, "exited", 5]);
  is(isAlive(Number(readFileSync(file, "utf8"))), false);
});

scenario("kept strays live on as a running process that can be terminated", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const file = join(scene.folder, "pid");
  const { id, pid } = await spawnReady(client, testProgram("leaves-stray.sh", file), {
    strays: "keep",
  });
  await until("the leader has ended", () => !isAlive(pid));
  const stray = Number(readFileSync(file, "utf8"));
  const status = await until("its exit is known", async () => {
    const now = await client.status({ id });
    return now.exitCode === 5 && now;
  });
  equal([status.status, status.members.map((one) => one.pid)], ["running", [stray]]);
  const result = await client.terminate({ id });
  equal([result.ended, result.exitCode, isAlive(stray)], [1, 5, false]);
});

scenario("kept strays that end by themselves end the process", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const file = join(scene.folder, "pid");
  const { id } = await spawnReady(client, testProgram("leaves-stray.sh", file), { strays: "keep" });
  const ended = client.wait({ id });
  await until("the stray is there", () => isAlive(Number(readFileSync(file, "utf8"))));
  process.kill(Number(readFileSync(file, "utf8")), "SIGKILL");
  equal((await ended).process.status, "exited");
});

scenario("two callers join one ladder and get the same answer", async (scene) => {
  const daemon = await visitDaemon(scene);
  const [one, two] = [await daemon.connect(), await daemon.connect()];
  const { id } = await spawnReady(one, testProgram("ignores-term.sh"));
  const first = one.terminate({ id, graceMs: 200 });
  const second = two.terminate({ id });
  equal(await first, await second);
});

scenario(
  "force during another's grace escalates it, and both get the same answer",
  async (scene) => {
    const daemon = await visitDaemon(scene);
    const [one, two] = [await daemon.connect(), await daemon.connect()];
    const { id } = await spawnReady(one, testProgram("ignores-term.sh"));
    const patient = one.terminate({ id, graceMs: 60_000 });
    await until("it is stopping", async () => (await two.status({ id })).status === "stopping");
    const forced = await two.terminate({ id, force: true });
    equal(await patient, forced);
    is(forced.forced, true);
    ok(forced.durationMs < 30_000);
  },
);

scenario("a shorter grace brings another's ladder forward", async (scene) => {
  const daemon = await visitDaemon(scene);
  const [one, two] = [await daemon.connect(), await daemon.connect()];
  const { id } = await spawnReady(one, testProgram("ignores-term.sh"));
  const patient = one.terminate({ id, graceMs: 60_000 });
  await until("it is stopping", async () => (await two.status({ id })).status === "stopping");
  equal(await two.terminate({ id, graceMs: 50 }), await patient);
});

scenario("wait: false answers at once and the ladder goes on", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id, pid } = await spawnReady(client, testProgram("ignores-term.sh"));
  const answer = await client.terminate({ id, graceMs: 100, wait: false });
  equal([answer.status, answer.forced, isAlive(pid)], ["stopping", false, true]);
  const { process } = await client.wait({ id });
  equal([process.status, process.signal, isAlive(pid)], ["terminated", "SIGKILL", false]);
});

scenario("a caller that hangs up changes nothing", async (scene) => {
  const daemon = await visitDaemon(scene);
  const client = await daemon.connect();
  const { id, pid } = await spawnReady(client, testProgram("ignores-term.sh"));
  const caller = await daemon.raw();
  caller.write(`${JSON.stringify(call("terminate", { id, graceMs: 200 }))}\n`);
  await until("it is stopping", async () => (await client.status({ id })).status === "stopping");
  caller.socket.destroy();
  equal([(await client.wait({ id })).process.status, isAlive(pid)], ["terminated", false]);
});

scenario(
  "200 processes terminated at once are all gone, each with its own answer",
  async (scene) => {
    const client = await (await visitDaemon(scene)).connect();
    const spawned = await Promise.all(
      Array.from({ length: 200 }, () => client.spawn({ command: ["sleep", "1000"] })),
    );
    const results = await Promise.all(spawned.map(({ id }) => client.terminate({ id })));
    equal(
      results.map(({ id, pid, ended }) => [id, pid, ended]),
      spawned.map(({ id, pid }) => [id, pid, 1]),
    );
    equal(
      bearers(scene.folder).filter((pid) => spawned.some((one) => one.pid === pid)),
      [],
    );
  },
);

scenario("an end comes before all that waits for its turn with the tree", async (scene) => {
  const daemon = await startDaemon(scene, { args: ["--containment", "group"] });
  const clients = await Promise.all([1, 2, 3].map(() => daemon.connect()));
  const [client] = clients;
  if (client === undefined) throw new Error("three are connected");
  const { id } = await spawnReady(client, ["sh", "-c", "echo ready; exec sleep 1000"]);
  // Each of them looks through all processes of the machine.
  const signals = clients.flatMap((one) =>
    Array.from({ length: 30 }, () => one.signal({ id, signal: "SIGWINCH", to: "tree" })),
  );
  await signals[0];
  equal((await client.terminate({ id })).signal, "SIGTERM");
  const signaled = (await Promise.all(signals)).map((one) => one.signaled);
  equal([signaled[0], signaled.includes(0)], [1, true]);
});

scenario("during a long grace 1,000 status calls of another client are answered", async (scene) => {
  const daemon = await visitDaemon(scene);
  const [one, two] = [await daemon.connect(), await daemon.connect()];
  const { id } = await spawnReady(one, testProgram("ignores-term.sh"));
  let answered = false;
  const patient = one.terminate({ id, graceMs: 30_000 }).finally(() => {
    answered = true;
  });
  await until("it is stopping", async () => (await two.status({ id })).status === "stopping");
  for (let count = 0; count < 1_000; count++) equal((await two.status({ id })).status, "stopping");
  is(answered, false);
  await two.terminate({ id, force: true });
  await patient;
});

scenario("a process that ends by itself is refused as already terminated", async (scene) => {
  const client = await (await visitDaemon(scene)).connect();
  const { id, pid } = await client.spawn({ command: ["sh", "-c", "exit 3"] });
  await client.wait({ id });
  const { kind, facts } = await refusalOf(client.terminate({ id }));
  equal(kind, "already_terminated");
  const { process } = facts as { process: { pid: number; exitCode: number; status: string } };
  equal([process.pid, process.exitCode, process.status], [pid, 3, "exited"]);
});

theDaemonGoes();
