// Callers of other users, over both doors: the kernel says who connects. What they may do is the scenarios'.

import { spawnSync } from "node:child_process";
import { chmodSync } from "node:fs";
import { is } from "uvu/assert";
import { call, configFile, type Daemon, openRaw, type Reply, startDaemon } from "./daemon.js";
import { foreseenReply } from "./foreseen.js";
import { openWire, requestText, route } from "./http.js";
import type { Scene } from "./scenario.js";

/** Users that every Debian has. */
export const people = {
  root: "root",
  owner: "daemon",
  member: "games",
  admin: "www-data",
  barred: "nobody",
};
export type Person = keyof typeof people;

/**
 * Run `connect`, which calls connect(2) before it returns, as somebody else. It is root's process again
 * when anything is said: what counts is who connected. `more` are groups. man 7 unix, SO_PEERCRED.
 */
export function connectingAs<T>(person: Person, connect: () => T, ...more: number[]): T {
  const user = people[person];
  const groups = process.getgroups?.() ?? [];
  process.setgroups?.([...output(["id", "-G", user]).trim().split(" ").map(Number), ...more]);
  process.setegid?.(Number(groupOf(user)));
  process.seteuid?.(user);
  try {
    return connect();
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
    process.setgroups?.(groups);
  }
}

/** A connection of somebody's. */
export type Voice = {
  ask(method: string, params?: object): Promise<Reply>;
  /** The last of the matrix: over HTTP it is the contract's own route. */
  kill(pid: number): Promise<string>;
};

export async function overLines(scene: Scene, { socket }: Daemon, person: Person): Promise<Voice> {
  const raw = await connectingAs(person, () => openRaw(scene, socket));
  const ask = async (method: string, params: object = {}) => {
    const message = call(method, params);
    raw.write(`${JSON.stringify(message)}\n`);
    for (;;) {
      const reply = await raw.next();
      if (reply.method === undefined) return foreseenReply(message, reply); // events are no answers
    }
  };
  return { ask, kill: async (pid) => outcome(await ask("terminate", { pid, force: true })) };
}

export async function overHttp(scene: Scene, { socket }: Daemon, person: Person): Promise<Voice> {
  const wire = await connectingAs(person, () => openWire(scene, socket));
  const post = (path: string, value: object) => {
    wire.socket.write(requestText(`POST ${path}`, JSON.stringify(value)));
    return wire.next();
  };
  return {
    async ask(method, params = {}) {
      const message = call(method, params);
      const { status, text } = await post("/rpc", message);
      is(status, 200);
      return foreseenReply(message, JSON.parse(text) as Reply);
    },
    async kill(pid) {
      const { status, headers, text } = await post(route(pid), { force: true });
      return routeOutcomes[`${status} ${headers["procsup-kind"]}`] ?? `${status} ${text}`;
    },
  };
}

const routeOutcomes: Record<string, string> = {
  "200 undefined": "done",
  "403 permission_denied": "permission_denied",
};

export function groupOf(user: string): string {
  return output(["id", "-g", user]).trim();
}

export function output([file = "", ...args]: string[]): string {
  const { stdout, stderr, status } = spawnSync(file, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${file}: ${stderr}`);
  return stdout;
}

/** A daemon of root that everybody may connect to. */
export async function startForAll(
  scene: Scene,
  containment: string,
  users: object = {},
): Promise<Daemon> {
  const config = configFile(scene, { adminGroup: "www-data", users });
  const daemon = await startDaemon(scene, { args: [...config, "--containment", containment] });
  chmodSync(scene.folder, 0o755);
  chmodSync(daemon.socket, 0o666);
  return daemon;
}

export function outcome({ error }: Reply): string {
  return error === undefined ? "done" : String(error.data?.["kind"]);
}
