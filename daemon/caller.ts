// Who calls, as the kernel has it, and what a process that is spawned for them is given.

import type { Socket } from "node:net";
import { userInfo } from "node:os";
import { peerCredentials } from "./native.js";
import type { Identity } from "./spawn.js";

const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * The identity behind a connection: owned by whoever connected, run as `own`, the daemon's user. Read
 * once, at accept: credentials are those of the connect(2). man 7 unix.
 */
export function identityOf(socket: Socket, own: Identity): Identity {
  const uid = callerUid(socket);
  if (uid === own.owner.uid) return own;
  return { ...own, owner: { uid, name: uid === 0 ? "root" : null } };
}

function callerUid(socket: Socket): number {
  // Set on every connected socket, and not in Node's types.
  const { _handle } = socket as unknown as { _handle: { fd: number } };
  return peerCredentials(_handle.fd).uid;
}

/** The daemon's own user, as at login. */
export function ownIdentity(): Identity {
  const uid = process.getuid?.() ?? 0;
  try {
    const { username: name, homedir: HOME, shell } = userInfo();
    const defaults = { PATH, HOME, USER: name, LOGNAME: name, SHELL: shell ?? "/bin/sh" };
    return { owner: { uid, name }, user: name, defaults };
  } catch {
    return { owner: { uid, name: null }, user: String(uid), defaults: { PATH } }; // not in passwd
  }
}
