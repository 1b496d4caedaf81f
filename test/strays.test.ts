// What is told of trees that do not behave: who would be ended, who outlives KILL, who belongs to nobody.

import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { equal, is, match } from "uvu/assert";
import { Refusal } from "../client/wire.js";
import { holdFound } from "../daemon/tree/found.js";
import { startLadder } from "../daemon/tree/ladder.js";
import { containments, freeze, noFreezer } from "./cage.js";
import { spawnReady, testProgram } from "./commands.js";
import { startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenario, skipped, until } from "./scenario.js";

async function start(scene: Scene, containment: string, command: string[]) {
  const daemon = await startDaemon(scene, { args: ["--containment", containment] });
  const client = await daemon.connect();
  const { id, pid } = await spawnReady(client, command);
  return { daemon, client, id, pid };
}

for (const containment of containments) {
  scenario(`${containment}: a dry run names everybody and ends nobody`, async (scene) => {
    const command = testProgram("daemonizes.sh");
    const { client, id, pid } = await start(scene, containment, command);
    const { members } = await until("the daemon stands", async () => {
      const said = await client.terminate({ id, dryRun: true });
      equal([said.status, said.ended], ["running", 0]);
      return (said.members?.length ?? 0) > 1 && said;
    });
    const pids = members?.map((one) => one.pid) ?? [];
    is(pids[0], pid);
    equal(pids.map(isAlive), Array(pids.length).fill(true));
    is((await client.terminate({ id })).ended, pids.length);
    equal(pids.map(isAlive), Array(pids.length).fill(false));
  });

  scenario(`${containment}: who bears another tree's mark stays in its own`, async (scene) => {
    const { client, id: asking } = await start(scene, containment, testProgram("ignores-term.sh"));
    // As a server that starts things on request does, with the environment of whoever asked.
    const script = `PROCSUP_ID=${asking} setsid sh -c 'echo ready; exec sleep 1000' & wait`;
    const { id: server } = await spawnReady(client, ["sh", "-c", script]);
    const inside = (await client.status({ id: server })).members.map(({ pid }) => pid);
    is((await client.terminate({ id: asking, force: true })).ended, 2);
    equal(inside.map(isAlive), [true, true]);
    equal((await client.strays({})).strays, []);
    is((await client.terminate({ id: server })).ended, 2);
  });

  scenario(
    `${containment}: what an earlier run has left is listed, and ended when asked`,
    async (scene) => {
      const command = testProgram("forks-child.sh");
      const first = await start(scene, containment, command);
      const { members } = await first.client.status({ id: first.id });
      const left = members.map((one) => one.pid).sort();
      first.daemon.child.kill("SIGKILL");
      await first.daemon.exited;
      rmSync(join(first.daemon.state, "journal")); // or they would be adopted
      const args = ["--containment", containment];
      const client = await (await startDaemon(scene, { args })).connect();
      const own = await client.spawn({ command: ["sleep", "1000"] });
      const { strays } = await client.strays({});
      equal(strays.map((one) => one.pid).sort(), left);
      is((await client.info({})).strays, left.length);
      is(strays[0]?.by, containment === "cgroup" ? "cgroup" : "tag");
      is((await client.strays({ end: true })).ended, left.length);
      equal(
        left.map(isAlive),
        left.map(() => false),
      );
      // Who belongs to a known process is none of its business.
      is(isAlive(own.pid ?? 0), true);
      equal((await client.strays({})).strays, []);
    },
  );
}

const outlives = "who outlives KILL is named, and the next terminate tries again";

if (noFreezer !== null) {
  if (process.env["CI"] === undefined) skipped(outlives, noFreezer);
} else {
  for (const containment of containments) {
    scenario(`${containment}: ${outlives}`, async (scene) => {
      const { client, id, pid } = await start(scene, containment, testProgram("forks-child.sh"));
      const thaw = await freeze(scene, pid);
      const refusal = await client.terminate({ id, graceMs: 50 }).catch((error: unknown) => error);
      if (!(refusal instanceof Refusal)) throw new Error("expected a refusal");
      const [survivor, ...others] = refusal.facts["survivors"] as Record<string, unknown>[];
      equal([refusal.kind, survivor?.["pid"], others], ["termination_failed", pid, []]);
      match(refusal.message, /^Failed to terminate process: 1 still alive: PID \d+ /);
      is(survivor?.["waitsIn"], readFileSync(`/proc/${pid}/wchan`, "utf8"));
      equal([(await client.status({ id })).status, isAlive(pid)], ["stopping", true]);
      thaw();
      const said = await client.terminate({ id }).catch((error: Refusal) => error.kind);
      // Thawed, the KILL of before takes effect at once: perhaps before it is asked again.
      if (typeof said !== "string") is(said.status, "terminated");
      else is(said, "already_terminated");
      is(isAlive(pid), false);
    });
  }
}

scenario("whoever has gone before it began was ended by no signal", async () => {
  const nobody = { find: async () => [], leader: null, tag: null, uid: null };
  for (const descent of [
    { stopSignal: "SIGTERM", graceMs: 10_000, force: false },
    { stopSignal: "SIGTERM", graceMs: 0, force: false },
    { stopSignal: null, graceMs: 10_000, force: true },
  ] as const) {
    const { durationMs: _, ...outcome } = await startLadder(holdFound(nobody), descent).outcome;
    equal(outcome, { gone: true, forced: false, ended: 0, survivors: [] });
  }
});
