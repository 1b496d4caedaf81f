// Who calls, as the kernel has it, and as whom their processes run.

import type { Socket } from "node:net";
import { Refusal } from "../../client/wire.js";
import { peerCredentials, peerGroups } from "../kernel/unix.js";
import { type Account, findAccount } from "../kernel/users.js";
import { admit, type Policy } from "../processes/access.js";
import type { Behalf, Identity } from "../processes/spawn.js";

const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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

/** What `peer` may do here, and on whose behalf it spawns; a refusal for whoever is not served at all. */
export function behalfOf(peer: Peer, policy: Policy): Behalf | Refusal {
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
function ownIdentity(): Identity {
  return ownAccount === null
    ? { user: String(ownUid), account: null, defaults: { PATH } }
    : { ...runningAs(ownAccount), account: null };
}

/** As at login. */
function runningAs(account: Account): Identity {
  const { name, home, shell } = account;
  const defaults = { PATH, HOME: home, USER: name, LOGNAME: name, SHELL: shell };
  return { user: name, account, defaults };
}

/** Refusals: `permission_denied` for all but root at a daemon of root; `invalid_params` for nobody. */
function named(user: string, own: Identity, uid: number): Identity {
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
