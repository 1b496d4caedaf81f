// Who calls, as the kernel has it, what they may do here, and as whom their processes run.

import type { Socket } from "node:net";
import { Refusal } from "../../client/wire.js";
import { isExhausted } from "../kernel/reserve.js";
import { peerCredentials, peerGroups } from "../kernel/unix.js";
import { type Account, findAccount } from "../kernel/users.js";
import { admit, type Behalf, type Policy, type RunAs } from "../processes/access.js";
import type { Log } from "../runtime/log.js";
import type { Guest } from "./accept.js";
import type { Listener } from "./feed.js";
import type { Patience } from "./patience.js";

const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Who calls: a connection to send events to, and on whose behalf it asks. */
export type Caller = { readonly listener: Listener; readonly behalf: Behalf };

/** What is asked of who comes, and how long it is put up with. */
type Rules = Policy & { patienceWith: (program: number) => Patience };

/** At the other end of a connection, as the kernel had it at connect(2). */
type Peer = {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  /** For the log only: it may be somebody else's by now. */
  readonly pid: number;
  readonly account: Account | null;
};

const ownUid = process.geteuid?.() ?? 0;
/** Looked up once: it calls most, and a lookup opens the account database. */
const ownAccount = findAccount(ownUid);

/** Read once, at accept: credentials are those of the connect(2). man 7 unix. */
export function peerOf(socket: Socket): Peer {
  // Set on every connected socket, and not in Node's types.
  const { fd } = (socket as unknown as { _handle: { fd: number } })._handle;
  const { uid, gid, pid } = peerCredentials(fd);
  return { uid, gid, pid, groups: peerGroups(fd), account: accountOf(uid) };
}

function accountOf(uid: number): Account | null {
  return uid === ownUid ? ownAccount : findAccount(uid);
}

/** Who has connected, or why they are not let in: then that is on record. */
export function welcome(socket: Socket, rules: Rules, log: Log): Guest<Caller> {
  try {
    return judge(socket, rules, log);
  } catch (error) {
    const refusal = exhaustion(error);
    if (refusal === null) throw error;
    return { refusal };
  }
}

/** What a caller is told whose wish needs more than is kept back; null for any other error. */
export function exhaustion(error: unknown): Refusal | null {
  if (!isExhausted(error)) return null;
  const { code: errno } = error as NodeJS.ErrnoException;
  const message = `${errno}: the daemon has no descriptor left: try again later, or raise its limit of open files`;
  return new Refusal("limit_exceeded", message, { limit: "descriptors", errno }, { cause: error });
}

function judge(socket: Socket, rules: Rules, log: Log): Guest<Caller> {
  const peer = peerOf(socket);
  const { uid, pid, account } = peer;
  const behalf = behalfOf(peer, rules);
  if (behalf instanceof Refusal) {
    const who = callerFacts({ owner: { uid, name: account?.name ?? null }, pid });
    log.info("audit", { method: "connect", ...who, outcome: behalf.kind });
    return { refusal: behalf };
  }
  return {
    uid,
    // Of another pid namespace the kernel tells no number.
    patience: rules.patienceWith(pid > 0 ? pid : -1 - uid),
    callerOf: (listener) => ({ listener, behalf }),
  };
}

/** Who, in an audit record. */
export function callerFacts({ owner, pid }: Pick<Behalf, "owner" | "pid">) {
  return { callerUid: owner.uid, callerName: owner.name, callerPid: pid };
}

/** What `peer` may do here, and on whose behalf it spawns; a refusal for whoever is not served at all. */
function behalfOf(peer: Peer, policy: Policy): Behalf | Refusal {
  const { uid, gid, groups, account } = peer;
  const owner = { uid, name: account?.name ?? null };
  const viewer = admit({ ...owner, gid, groups }, ownUid, policy);
  if (viewer instanceof Refusal) return viewer;
  const unnamed = { name: String(uid), uid, gid, groups, home: "/", shell: "/bin/sh" };
  const own = uid === ownUid || ownUid !== 0 ? ownIdentity() : runningAs(account ?? unnamed);
  return {
    pid: peer.pid,
    viewer,
    owner,
    as: (user) => (user === undefined ? own : named(user, own, uid)),
  };
}

/** The daemon's own user. */
function ownIdentity(): RunAs {
  return ownAccount === null
    ? { user: String(ownUid), account: null, defaults: { PATH } }
    : { ...runningAs(ownAccount), account: null };
}

/** As at login. */
function runningAs(account: Account): RunAs {
  const { name, home, shell } = account;
  const defaults = { PATH, HOME: home, USER: name, LOGNAME: name, SHELL: shell };
  return { user: name, account, defaults };
}

/** Refusals: `permission_denied` for all but root at a daemon of root; `invalid_params` for nobody. */
function named(user: string, own: RunAs, uid: number): RunAs {
  if (user === own.user) return own;
  if (ownUid !== 0 || uid !== 0) {
    const message =
      ownUid === 0
        ? `Only root may run processes as ${user}`
        : `Running as ${user} needs a daemon of root; this one runs as ${own.user}`;
    throw new Refusal("permission_denied", message, { field: "user" });
  }
  const account = findAccount(user);
  if (account !== null) return account.uid === ownUid ? ownIdentity() : runningAs(account);
  throw new Refusal("invalid_params", `spawn: user: there is no user ${user}`, { field: "user" });
}
