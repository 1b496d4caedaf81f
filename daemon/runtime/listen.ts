// The socket that the daemon listens on: a stale one is replaced, and never anybody else's.

import { existsSync, lchownSync, lstatSync, renameSync, rmSync, unlinkSync } from "node:fs";
import net from "node:net";
import { limits } from "../../client/wire.js";
import { boundTo } from "../kernel/unix.js";
import { CannotStart, claim } from "./claim.js";

/** sun_path of unix(7), without its NUL and the sign below: Node cuts off what is more. */
const PATH_BYTES = 106;

/** What it is bound as, and renamed from. */
function fresh(path: string): string {
  return `${path}~`;
}

/**
 * See to it that nobody else listens on `path`: a live socket is left alone, and the lock beside it keeps two
 * daemons from judging the same one stale. To be done before anything else is touched. Throws CannotStart.
 */
export async function claimSocket(path: string): Promise<void> {
  try {
    checkPlace(path);
    claim(lockOf(path), takenText(path));
    await checkStale(path);
  } catch (cause) {
    throw cannotListen(path, cause as Error);
  }
}

/** Throws CannotStart where a living daemon has claimed `path`. */
export function checkUnclaimed(path: string): void {
  const lock = lockOf(path);
  if (!existsSync(lock)) return;
  try {
    claim(lock, takenText(path));
  } catch (cause) {
    const { code = "" } = cause as NodeJS.ErrnoException;
    if (code !== "EACCES" && code !== "EPERM") throw cause;
    throw new CannotStart(`${path} is claimed by another user`, { cause });
  }
}

function lockOf(path: string): string {
  return `${path}.lock`;
}

function takenText(path: string): string {
  if (existing(path) !== null) return `another procsupd listens on ${path}`;
  const where = "its socket is not there, as it has just begun, or somebody has removed it";
  return `another procsupd has claimed ${path}; ${where}: restart that one`;
}

function cannotListen(path: string, cause: Error): CannotStart {
  if (cause instanceof CannotStart) return cause;
  const fix = "choose another with --socket";
  return new CannotStart(`cannot listen on ${path}: ${cause.message}; ${fix}`, { cause });
}

/**
 * Listen on `path`, which was claimed, for this user only, or also for the members of the group `gid`; a stale
 * socket is replaced. With a `passed` socket that one is served, and `path` is not touched. The function
 * returned removes the socket if it is still ours.
 */
export async function listen(
  server: net.Server,
  path: string,
  gid: number | null,
  passed: Passed | null,
): Promise<() => void> {
  if (passed !== null) {
    await listenPassed(server, passed);
    return () => undefined;
  }
  try {
    await checkStale(path); // somebody may have come while this daemon was made ready
    await bind(server, fresh(path), gid === null ? 0o600 : 0o660);
    // Its mode came from the umask: chmod would follow a link that somebody had put there instead.
    if (gid !== null) lchownSync(fresh(path), process.geteuid?.() ?? -1, gid);
    renameSync(fresh(path), path);
  } catch (cause) {
    throw cannotListen(path, cause as Error);
  }
  const own = existing(path);
  return () => {
    const now = existing(path);
    if (now !== null && now.ino === own?.ino && now.dev === own.dev) unlinkSync(path);
  };
}

/** A socket that the service manager listens on for us, and where it is bound. */
type Passed = { fd: number; path: string };

/** The one that was passed, null for none. Throws CannotStart for several, and for one of another kind. */
export function passedSocket(fds: readonly number[]): Passed | null {
  const [fd] = fds;
  if (fd === undefined) return null;
  const path = boundTo(fd);
  if (fds.length === 1 && path !== null) return { fd, path };
  const what = path === null ? "one that is no Unix socket" : `${fds.length} sockets`;
  throw new CannotStart(`systemd passes ${what}: leave one ListenStream=PATH in the unit`);
}

/**
 * Serve a socket that was passed. It stays the manager's: whoever connects while no daemon lives waits in
 * its queue, so it is neither replaced nor removed, and its owner and mode are as they are.
 */
function listenPassed(server: net.Server, { fd, path }: Passed): Promise<void> {
  return new Promise((resolve, reject) => {
    const refuse = ({ message }: Error) =>
      reject(new CannotStart(`cannot serve ${path}, as passed by systemd: ${message}`));
    server.once("error", refuse);
    server.listen({ fd, backlog: limits.connections }, () => {
      server.off("error", refuse);
      resolve();
    });
  });
}

function existing(path: string) {
  return lstatSync(path, { throwIfNoEntry: false }) ?? null;
}

/** Nothing is there, or a socket on which nobody listens any more. */
async function checkStale(path: string): Promise<void> {
  checkPlace(path);
  if (existing(path) !== null && (await isAnswered(path))) {
    throw new CannotStart(`another program listens on ${path}`);
  }
}

/** Before a lock is put beside it: /etc/passwd.lock means something else. */
function checkPlace(path: string): void {
  if (Buffer.byteLength(path) > PATH_BYTES) {
    const fix = "choose a shorter one with --socket";
    throw new CannotStart(`${path}: a socket's path has at most ${PATH_BYTES} bytes here: ${fix}`);
  }
  if (existing(path)?.isSocket() === false) {
    throw new CannotStart(`${path} exists and is no socket: remove it or choose another --socket`);
  }
}

function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = net.connect({ path });
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ECONNREFUSED") resolve(false);
      else reject(error);
    });
  });
}

/**
 * Bound under another name and then renamed: the socket is there only once it is served, a stale one
 * is replaced in one step, and libuv, which unlinks by name what it once bound, has nothing to unlink.
 */
function bind(server: net.Server, path: string, mode: number): Promise<void> {
  rmSync(path, { force: true });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    // bind(2) happens within listen(), so the mode is right from the first moment.
    const umask = process.umask(0o777 & ~mode);
    // A burst of as many clients as are served at all must not meet EAGAIN. man 2 listen.
    server.listen({ path, backlog: limits.connections }, () => {
      server.off("error", reject);
      resolve();
    });
    process.umask(umask);
  });
}
