// The matrix: whatever a tree does to get away, in each containment, terminate ends all of it and says
// so truly. What lives is told by the cage (cage.ts), never by procsup.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { equal, is, ok } from "uvu/assert";
import type { Client } from "../client/client.js";
import { type Cage, describe, noCgroup, openCage } from "./cage.js";
import { testProgram, untilReady } from "./commands.js";
import { startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenario, skipped, statFields, until } from "./scenario.js";

type Kind = "cgroup" | "group";

type Escape = {
  command: string[];
  /** At least so many members stand before terminate is called. */
  members: number;
  /** At least so many of them have left the leader's process group. */
  away?: number;
  /** Not everybody ends on TERM, so KILL is needed. */
  forced: boolean;
  /** Terminate with `force`. */
  force?: boolean;
  /** The leader ends by itself before terminate is called. */
  leaderLeaves?: boolean;
  /** The program needs root. */
  root?: boolean;
};

const node = (name: string, ...args: string[]) => [process.execPath, ...testProgram(name, ...args)];

const escapes: Record<string, Escape> = {
  "same group": { command: testProgram("forks-child.sh"), members: 2, forced: false },
  "a session of its own": {
    command: testProgram("opens-session.sh", ...testProgram("forks-child.sh")),
    members: 3,
    away: 2,
    forced: false,
  },
  "a session of its own, TERM ignored in it": {
    command: testProgram("opens-session.sh", ...testProgram("ignores-term.sh")),
    members: 3,
    away: 2,
    forced: true,
  },
  "a double fork daemon": {
    command: testProgram("daemonizes.sh"),
    members: 2,
    away: 1,
    forced: false,
  },
  "an env -i daemon": {
    command: testProgram("daemonizes.sh", "env", "-i"),
    members: 2,
    away: 1,
    forced: false,
  },
  "its own session, no environment, streams closed, another title": {
    command: node("hides.mjs"),
    members: 2,
    away: 1,
    forced: false,
  },
  "job control's groups": { command: node("job-group.mjs"), members: 3, away: 2, forced: false },
  "the leader ignores TERM": {
    command: testProgram("leader-ignores-term.sh"),
    members: 3,
    forced: true,
  },
  "the child ignores TERM": {
    command: testProgram("child-ignores-term.sh"),
    members: 3,
    forced: true,
  },
  "both ignore TERM": { command: testProgram("ignores-term.sh"), members: 2, forced: true },
  "forks on TERM": { command: testProgram("forks-on-term.sh"), members: 2, forced: true },
  "another pid every few milliseconds": {
    command: testProgram("keeps-hopping.sh"),
    members: 2,
    away: 1,
    forced: true,
  },
  "a fork storm": {
    command: testProgram("fork-storm.sh", "200"),
    members: 20,
    away: 19,
    forced: true,
  },
  "a fork storm, by force as it begins": {
    command: testProgram("fork-storm.sh", "200"),
    members: 1,
    forced: true,
    force: true,
  },
  "50 deep": { command: testProgram("deep-tree.sh", "50"), members: 50, forced: false },
  "50 deep, each in a session of its own": {
    command: testProgram("deep-tree.sh", "50", "setsid"),
    members: 50,
    away: 49,
    forced: false,
  },
  "200 wide": { command: testProgram("wide-tree.sh", "200"), members: 201, forced: false },
  "200 wide, each in a session of its own": {
    command: testProgram("wide-tree.sh", "200", "setsid"),
    members: 201,
    away: 200,
    forced: false,
  },
  "the leader is stopped": {
    command: testProgram("stops-itself.sh", "/dev/null"),
    members: 1,
    forced: false,
  },
  "a grandchild is stopped": {
    command: testProgram("stops-grandchild.sh"),
    members: 3,
    forced: false,
  },
  "a grandchild is stopped in a session of its own": {
    command: testProgram("opens-session.sh", ...testProgram("stops-grandchild.sh")),
    members: 4,
    away: 3,
    forced: false,
  },
  "a traced child": { command: node("traces-child.mjs"), members: 2, forced: true },
  "children of another user": {
    command: node("other-user.mjs"),
    members: 3,
    away: 1,
    forced: false,
    root: true,
  },
  "a zombie leader with living threads": {
    command: node("exits-main-thread.mjs"),
    members: 1,
    forced: true,
  },
  "a zombie with living threads in a session of its own": {
    command: testProgram("opens-session.sh", ...node("exits-main-thread.mjs")),
    members: 2,
    away: 1,
    forced: true,
  },
};

/** How a child gets away while its leader ends. */
const routes: Record<string, { command: string[]; away: number }> = {
  "in its group": { command: testProgram("leaves-escaped.sh"), away: 0 },
  "in a session of its own": { command: testProgram("leaves-escaped.sh", "setsid"), away: 1 },
  "in a session of its own, without environment": {
    command: testProgram("leaves-escaped.sh", "env", "-i", "setsid"),
    away: 1,
  },
  "hidden in all ways": { command: node("hides.mjs", "leave"), away: 1 },
};

for (const [name, { command, away }] of Object.entries(routes)) {
  escapes[`the leader is gone, a stray lives ${name}`] = {
    command,
    members: 1,
    away,
    forced: false,
    leaderLeaves: true,
  };
}

/** Enough for every TERM to arrive on a busy machine; nobody waits for it. */
const LONG_GRACE_MS = 8_000;
const SHORT_GRACE_MS = 200;
/** 200 processes start within half a second, unless the machine is busy with ten times that. */
const STANDS_MS = 12_000;
const LIMIT_MS = 30_000;

type Caged = { client: Client; tree(): number[] };

/** One daemon for all cells of a file: each leaves an empty cage to the next. */
let caged: Promise<Caged> | null = null;
const undos: (() => void | Promise<void>)[] = [];

function startCaged(kind: Kind): Promise<Caged> {
  caged ??= (async () => {
    const folder = mkdtempSync(join(tmpdir(), "procsup-matrix-"));
    undos.push(() => rmSync(folder, { recursive: true, force: true }));
    const scene: Scene = { folder, after: (undo) => void undos.push(undo) };
    const cage: Cage = openCage(scene);
    const args = ["--containment", kind];
    const daemon = await startDaemon(scene, { prefix: cage.prefix, args });
    const client = await daemon.connect();
    return { client, tree: () => cage.pids().filter((pid) => pid !== daemon.pid) };
  })();
  return caged;
}

async function stopCaged(): Promise<void> {
  for (const undo of undos.reverse()) await undo();
}

async function terminateEscape(kind: Kind, trick: Escape): Promise<void> {
  const { client, tree } = await startCaged(kind);
  const { command, leaderLeaves = false, force = false, forced } = trick;
  const spawned = await client.spawn({ command, strays: leaderLeaves ? "keep" : "end" });
  const { id, pid } = spawned;
  await untilReady(client, id, STANDS_MS);
  if (leaderLeaves) await until("the leader is gone", () => !isAlive(pid ?? 0));
  const stands = () => {
    const members = tree();
    const away = members.filter((member) => statFields(member)?.[2] !== String(pid));
    return members.length >= trick.members && away.length >= (trick.away ?? 0);
  };
  await until("the tree stands", stands, STANDS_MS);
  const graceMs = forced ? SHORT_GRACE_MS : LONG_GRACE_MS;
  const result = await client.terminate({ id, force, graceMs });
  const alive = describe(tree());
  equal(
    { status: result.status, forced: result.forced, alive },
    { status: "terminated", forced, alive: [] },
  );
  ok(result.ended >= trick.members, `${result.ended} ended, ${trick.members} stood`);
  equal([result.success, spawned.containment], [true, kind]);
}

async function leaveStray(kind: Kind, command: string[]): Promise<void> {
  const { client, tree } = await startCaged(kind);
  const { id, containment } = await client.spawn({ command });
  const { process } = await client.wait({ id });
  const alive = describe(tree());
  equal(
    { status: process.status, exitCode: process.exitCode, alive },
    { status: "exited", exitCode: 5, alive: [] },
  );
  is((await client.logs({ id })).text, "ready\n");
  is(containment, kind);
}

function whyNot(kind: Kind, { root = false }: { root?: boolean }): string | null {
  if (kind === "cgroup" && noCgroup !== null) return noCgroup;
  if (root && process.getuid?.() !== 0) return "only root can start a process as another user";
  return null;
}

/** All cells of one containment, each a scenario of its own. */
export function playMatrix(kind: Kind): void {
  const play = (what: string, trick: { root?: boolean }, body: () => Promise<void>) => {
    const reason = whyNot(kind, trick);
    if (reason === null) scenario(`${kind}: ${what}`, body, LIMIT_MS);
    else skipped(`${kind}: ${what}`, reason);
  };
  for (const [what, trick] of Object.entries(escapes)) {
    play(what, trick, () => terminateEscape(kind, trick));
  }
  for (const [route, { command }] of Object.entries(routes)) {
    const what = `the leader ends by itself and leaves a stray ${route}, which is ended`;
    play(what, {}, () => leaveStray(kind, command));
  }
  play("the daemon of all this stops, and leaves nothing", {}, stopCaged);
}
