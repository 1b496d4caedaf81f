// Who may do what. The kernel says who calls; a process belongs to the user who spawned it, who sees and
// controls it; administrators control all. Nothing is looked up here: callers and owners are given.

import { Refusal } from "../../client/wire.js";
import type { Account } from "../kernel/users.js";
import type { Spec } from "../life/records.js";

/** A user; `name` is null for a number that no account has. */
type Person = {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly name: string | null;
};

/** What one user may take; null is no bound but the daemon's own. */
type Share = {
  readonly barred: boolean;
  readonly processes: number | null;
  readonly spawnsPerMinute: number | null;
};

/** As the settings have it. */
export type Policy = {
  /** Its members control every process. */
  readonly adminGid: number | null;
  /** By user name or number; `*` is everybody else. */
  readonly users: Readonly<Record<string, Partial<Share>>>;
};

/** Whose processes one sees and controls. */
export type Sight = { readonly uid: number; readonly isAdmin: boolean };

/** Everybody's: for the daemon's own doings. */
export const seesAll: Sight = { uid: 0, isAdmin: true };

/** Whoever asks for something: what they may see, and how much they may take. */
export type Viewer = Sight & { readonly share: Share };

/** As whom a process runs: `account` is null for the daemon's own user. */
export type RunAs = {
  readonly user: string;
  readonly account: Account | null;
  /** The environment where the call gives none. */
  readonly defaults: Readonly<Record<string, string>>;
};

/** On whose behalf, and as whom; `as` finds another user for the few who may name one. */
export type Behalf = {
  /** Of whoever connected; for the log only. */
  readonly pid: number;
  readonly viewer: Viewer;
  readonly owner: Spec["owner"];
  readonly as: (user: string | undefined) => RunAs;
};

const everything: Share = { barred: false, processes: null, spawnsPerMinute: null };

/**
 * The rights of whoever connects. Root, the daemon's own user and the admin group control all. A refusal,
 * `permission_denied`, for whoever is barred, and for everybody else of a daemon that is not root: it
 * could run nothing in their name.
 */
export function admit(person: Person, ownUid: number, policy: Policy): Viewer | Refusal {
  const { uid, gid, groups, name } = person;
  const { adminGid } = policy;
  const inGroup = adminGid !== null && (gid === adminGid || groups.includes(adminGid));
  const isAdmin = uid === 0 || uid === ownUid || inGroup;
  if (ownUid !== 0 && uid !== 0 && uid !== ownUid) {
    return denied(`This procsup serves uid ${ownUid} only; you are uid ${uid}`);
  }
  const named = name === null ? undefined : policy.users[name];
  const set = named ?? policy.users[String(uid)] ?? policy.users["*"] ?? {};
  const share = uid === 0 ? everything : { ...everything, ...set };
  if (share.barred) return denied(`The settings of this procsup bar user ${name ?? uid}`);
  return { uid, isAdmin, share };
}

function denied(message: string): Refusal {
  return new Refusal("permission_denied", message, {});
}

/** Whether a process of `ownerUid` is theirs to see and to control. */
export function controls(viewer: Sight, ownerUid: number): boolean {
  return viewer.isAdmin || viewer.uid === ownerUid;
}

/** What users take now, by uid: living processes, and spawns of the minute under way. */
export type Takings = {
  readonly living: Map<number, number>;
  readonly spawns: Map<number, { minute: number; count: number }>;
};

export function createTakings(): Takings {
  return { living: new Map(), spawns: new Map() };
}

/** One more (`1`) or one less (`-1`) that lives. */
export function countLiving({ living }: Takings, uid: number, change: 1 | -1): void {
  const count = (living.get(uid) ?? 0) + change;
  if (count === 0) living.delete(uid);
  else living.set(uid, count);
}

/** Take one more spawn of `share`. Refusal: `limit_exceeded`, naming the limit. */
export function takeSpawn({ living, spawns }: Takings, { uid, share }: Viewer): void {
  const { processes, spawnsPerMinute } = share;
  if (processes !== null && (living.get(uid) ?? 0) >= processes) {
    throw exceeded("processes", `The bound for you is ${processes} living at once: end some first`);
  }
  if (spawnsPerMinute === null) return;
  const minute = Math.floor(performance.now() / 60_000);
  const last = spawns.get(uid);
  const count = last?.minute === minute ? last.count : 0;
  if (count >= spawnsPerMinute) {
    throw exceeded("spawnsPerMinute", `You may spawn ${spawnsPerMinute} times a minute: try later`);
  }
  spawns.set(uid, { minute, count: count + 1 });
}

function exceeded(limit: keyof Share, message: string): Refusal {
  return new Refusal("limit_exceeded", message, { limit });
}
