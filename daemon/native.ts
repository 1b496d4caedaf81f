// The system calls that Node lacks, through koffi: the only file that leaves JavaScript. Each wrapper
// is typed, names its manual page and throws an Error with the kernel's errno as `code`.

import { closeSync, writeSync } from "node:fs";
import { constants } from "node:os";
import koffi from "koffi";

export const libc = koffi.load(null);
// Numbers above 423 are the same on every architecture (Linux, arch/*/entry/syscalls).
const SYS_pidfd_send_signal = 424;
const SYS_pidfd_open = 434;
const SYS_close_range = 436;
const syscallFn = libc.func("long syscall(long number, ...)");
const flockFn = libc.func("int flock(int fd, int operation)");
const ioctlFn = libc.func("int ioctl(int fd, ulong request, ...)");
const waitidFn = libc.func("int waitid(int type, int id, void *info, int options)");
const prlimitFn = libc.func("int prlimit64(int pid, int resource, void *set, void *old)");
const getsockoptFn = libc.func(
  "int getsockopt(int fd, int level, int name, void *value, void *length)",
);

/** Bytes of a page, the unit of memory in /proc/PID/stat. man 2 getpagesize. */
export const pageBytes: number = libc.func("int getpagesize()")();

const errnoNames = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));

function failure(call: string, errno: number): Error {
  const code = errnoNames.get(errno) ?? `E${errno}`;
  return Object.assign(new Error(`${call}: ${code}`), { code, errno, syscall: call });
}

/** The result of a call, or its failure as an Error with the errno as `code`. */
export function check(result: number, call: string): number {
  if (result >= 0) return result;
  throw failure(call, koffi.errno());
}

/** For the calls of posix_spawn, which return the errno itself. */
function checkReturned(errno: number, call: string): void {
  if (errno !== 0) throw failure(call, errno);
}

/**
 * Take the exclusive lock of an open file, without waiting; the kernel gives it back when the last
 * copy of `fd` is closed, also by `kill -9`. False when another process holds it. man 2 flock.
 */
export function tryLock(fd: number): boolean {
  const LOCK_EX = 2;
  const LOCK_NB = 4;
  const result: number = flockFn(fd, LOCK_EX | LOCK_NB);
  if (result < 0 && koffi.errno() === constants.errno.EAGAIN) return false;
  check(result, "flock");
  return true;
}

/**
 * Keep every descriptor above the standard streams, as inherited from whoever started this process,
 * from programs that it executes. man 2 close_range.
 */
export function keepDescriptorsFromChildren(): void {
  const CLOSE_RANGE_CLOEXEC = 4;
  const LAST = 0xffffffff;
  const args = ["uint", 3, "uint", LAST, "uint", CLOSE_RANGE_CLOEXEC];
  check(Number(syscallFn(SYS_close_range, ...args)), "close_range");
}

// --- holes in files ---------------------------------------------------------------------------

// On a thread of the pool: both wait for whoever is in the middle of a write to that file.
const fallocateFn = libc.func("int fallocate64(int fd, int mode, int64_t offset, int64_t length)");
const lseekFn = libc.func("int64_t lseek64(int fd, int64_t offset, int whence)");

/** The result of a call on a thread of the pool, and its errno. */
function inPool(fn: ReturnType<typeof libc.func>, ...args: number[]): Promise<[number, number]> {
  return new Promise((resolve, reject) => {
    fn.async(...args, (error: Error | null, result: number) => {
      if (error === null) resolve([result, koffi.errno()]);
      else reject(error);
    });
  });
}

/**
 * Give the blocks of a part of a file back; it reads as zeros from then on, and the size stays. Only
 * whole blocks are freed, the rest is zeroed. Rejects with EOPNOTSUPP where the file system cannot.
 * man 2 fallocate.
 */
export async function punchHole(fd: number, offset: number, length: number): Promise<void> {
  const FALLOC_FL_KEEP_SIZE = 1;
  const FALLOC_FL_PUNCH_HOLE = 2;
  const mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
  const [result, errno] = await inPool(fallocateFn, fd, mode, offset, length);
  if (result < 0) throw failure("fallocate", errno);
}

/**
 * The offset of the first byte that lies in no hole; null when there is none. Where a file system
 * does not tell, 0: everything is data. Moves the file's own offset. man 2 lseek.
 */
export async function firstData(fd: number): Promise<number | null> {
  const SEEK_DATA = 3;
  const [result, errno] = await inPool(lseekFn, fd, 0, SEEK_DATA);
  if (result >= 0) return result;
  if (errno === constants.errno.ENXIO) return null;
  if (errno === constants.errno.EINVAL) return 0;
  throw failure("lseek", errno);
}

// --- files that grow --------------------------------------------------------------------------

const inotifyInitFn = libc.func("int inotify_init1(int flags)");
const inotifyAddFn = libc.func("int inotify_add_watch(int fd, const char *path, uint32_t mask)");
const inotifyRemoveFn = libc.func("int inotify_rm_watch(int fd, int watch)");

/** A descriptor that tells what happens to watched files. Throws EMFILE. man 2 inotify_init1. */
export function inotifyInit(): number {
  const IN_NONBLOCK = 0o4000;
  const IN_CLOEXEC = 0o2000000;
  return check(inotifyInitFn(IN_NONBLOCK | IN_CLOEXEC), "inotify_init1");
}

/** A number for the watch, not used again soon. Throws ENOENT, ENOSPC. man 2 inotify_add_watch. */
export function inotifyAdd(fd: number, path: string, mask: number): number {
  return check(inotifyAddFn(fd, path, mask >>> 0), "inotify_add_watch");
}

/** Nothing happens when the kernel has dropped it already. man 2 inotify_rm_watch. */
export function inotifyRemove(fd: number, watch: number): void {
  const result: number = inotifyRemoveFn(fd, watch);
  if (result < 0 && koffi.errno() !== constants.errno.EINVAL) check(result, "inotify_rm_watch");
}

// --- processes by descriptor ------------------------------------------------------------------

/**
 * A file descriptor that stands for this very process, whatever becomes of its number. Throws ESRCH
 * when no such process is left, EMFILE when no descriptor is. man 2 pidfd_open.
 */
export function pidfdOpen(pid: number): number {
  return check(Number(syscallFn(SYS_pidfd_open, "int", pid, "uint", 0)), "pidfd_open");
}

/** PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9: to the group that the process of the pidfd leads or led. */
const TO_GROUP = 4;

/**
 * Send a signal (0 sends none and only checks) to the process behind `pidfd`, or to the process group
 * that it leads, also when it is gone itself. Throws ESRCH when nobody is left, zombies excepted;
 * EPERM when none may be signalled; EINVAL for a group before Linux 6.9. man 2 pidfd_send_signal.
 */
export function pidfdSendSignal(pidfd: number, signal: number, to: "process" | "group"): void {
  const flags = to === "group" ? TO_GROUP : 0;
  const args = ["int", pidfd, "int", signal, "void *", null, "uint", flags];
  check(Number(syscallFn(SYS_pidfd_send_signal, ...args)), "pidfd_send_signal");
}

const siginfo = Buffer.alloc(128);

/** How a child ended, as waitid has it: an exit code, or the number of the signal that ended it. */
export type Ended = { by: "code"; code: number } | { by: "signal"; signal: number };

/**
 * The end of a child that has ended; `reap` gives its number back to the kernel, `peek` leaves it a
 * zombie. Throws ECHILD when it is no child of ours, or reaped already. man 2 waitid.
 */
export function waitEnded(pidfd: number, how: "peek" | "reap"): Ended {
  const P_PIDFD = 3;
  const WEXITED = 4;
  const WNOWAIT = 0x01000000;
  const CLD_EXITED = 1;
  const options = how === "peek" ? WEXITED | WNOWAIT : WEXITED;
  check(waitidFn(P_PIDFD, pidfd, siginfo, options), "waitid");
  const status = siginfo.readInt32LE(24); // si_status; si_code stands at 8, also on arm64
  return siginfo.readInt32LE(8) === CLD_EXITED
    ? { by: "code", code: status }
    : { by: "signal", signal: status };
}

/** struct pidfd_info as of Linux 6.13, its first version. include/uapi/linux/pidfd.h. */
const pidfdInfo = Buffer.alloc(64);

/**
 * The end of whatever process is behind `pidfd`, our child or not, once its parent has reaped it; null
 * while it has not, and on kernels that do not tell (before Linux 6.15, or where the descriptor was
 * opened too late). man 2 ioctl_pidfd, PIDFD_GET_INFO.
 */
export function pidfdEnded(pidfd: number): Ended | null {
  const PIDFD_GET_INFO = 0xc040ff0b; // _IOWR(0xFF, 11, struct pidfd_info)
  const PIDFD_INFO_EXIT = 8n;
  pidfdInfo.fill(0);
  pidfdInfo.writeBigUInt64LE(PIDFD_INFO_EXIT, 0);
  if (ioctlFn(pidfd, PIDFD_GET_INFO, "void *", pidfdInfo) < 0) {
    const { ENOTTY, EINVAL, ESRCH } = constants.errno;
    const errno = koffi.errno();
    if (errno === ENOTTY || errno === EINVAL || errno === ESRCH) return null;
    throw failure("ioctl", errno);
  }
  const isKnown = (pidfdInfo.readBigUInt64LE(0) & PIDFD_INFO_EXIT) !== 0n;
  return isKnown ? fromWaitStatus(pidfdInfo.readInt32LE(60)) : null;
}

/** Of the status word of wait(2), also as /proc/PID/stat has it. man 2 wait. */
export function fromWaitStatus(status: number): Ended {
  const signal = status & 0x7f;
  return signal === 0 ? { by: "code", code: (status >> 8) & 0xff } : { by: "signal", signal };
}

// --- limits and sockets -----------------------------------------------------------------------

const RLIMIT_LOCKS = 10;
const rlimit = Buffer.alloc(16);

/**
 * The soft RLIMIT_LOCKS of a process, which Linux keeps and hands down but has not used since 2.4;
 * null when there is no such process. Throws EPERM for another user's. man 2 prlimit.
 */
export function readLocksLimit(pid: number): bigint | null {
  if (prlimitFn(pid, RLIMIT_LOCKS, null, rlimit) < 0) {
    if (koffi.errno() === constants.errno.ESRCH) return null;
    throw failure("prlimit", koffi.errno());
  }
  return rlimit.readBigUInt64LE(0);
}

/** Set our own soft RLIMIT_LOCKS, which children inherit. Throws EINVAL above the hard limit. */
export function setLocksLimit(soft: bigint): void {
  check(prlimitFn(0, RLIMIT_LOCKS, null, rlimit), "prlimit");
  rlimit.writeBigUInt64LE(soft, 0);
  check(prlimitFn(0, RLIMIT_LOCKS, rlimit, null), "prlimit");
}

/**
 * Who called connect(2) at the other end of a Unix socket, at that moment. The pid is for the log: it
 * may be somebody else's by now. man 7 unix, SO_PEERCRED.
 */
export function peerCredentials(fd: number): { pid: number; uid: number; gid: number } {
  const SO_PEERCRED = 17;
  const value = Buffer.alloc(12);
  const length = Buffer.alloc(4);
  length.writeInt32LE(value.length);
  check(getsockoptFn(fd, SOL_SOCKET, SO_PEERCRED, value, length), "getsockopt");
  return { pid: value.readInt32LE(0), uid: value.readUInt32LE(4), gid: value.readUInt32LE(8) };
}

/** The supplementary groups of that caller. man 7 unix, SO_PEERGROUPS (Linux 4.13). */
export function peerGroups(fd: number): number[] {
  const SOL_SOCKET = 1;
  const SO_PEERGROUPS = 59;
  for (let room = 64; ; room *= 4) {
    const value = new Uint32Array(room);
    const length = Uint32Array.of(value.byteLength);
    const result: number = getsockoptFn(fd, SOL_SOCKET, SO_PEERGROUPS, value, length);
    if (result < 0 && koffi.errno() === constants.errno.ERANGE) continue;
    check(result, "getsockopt");
    return [...value.subarray(0, (length[0] ?? 0) / value.BYTES_PER_ELEMENT)];
  }
}

const RLIMIT_NOFILE = 7;
/** What programs expect, and what select(2) can take. man 5 systemd.exec, LimitNOFILE=. */
const USUAL_FILES = 1024n;

/**
 * Run `spawn` so that whatever it starts has the usual soft limit of open files: Node raises its own to
 * the hard one. Our own is restored. man 2 prlimit.
 */
export function withUsualFiles<T>(spawn: () => T): T {
  check(prlimitFn(0, RLIMIT_NOFILE, null, rlimit), "prlimit");
  const [soft, hard] = [rlimit.readBigUInt64LE(0), rlimit.readBigUInt64LE(8)];
  if (soft <= USUAL_FILES) return spawn();
  setFiles(USUAL_FILES, hard);
  try {
    return spawn();
  } finally {
    setFiles(soft, hard);
  }
}

function setFiles(soft: bigint, hard: bigint): void {
  rlimit.writeBigUInt64LE(soft, 0);
  rlimit.writeBigUInt64LE(hard, 8);
  check(prlimitFn(0, RLIMIT_NOFILE, rlimit, null), "prlimit");
}

const memfdCreateFn = libc.func("int memfd_create(const char *name, uint flags)");

/** A file without a name that holds `content`, read from its start. man 2 memfd_create. */
export function anonymousFile(content: Buffer): number {
  const MFD_CLOEXEC = 1;
  const fd = check(memfdCreateFn("procsup", MFD_CLOEXEC), "memfd_create");
  // At offsets, so that the descriptor itself stays at 0, where the child begins.
  for (let at = 0; at < content.length; ) at += writeSync(fd, content, at, content.length - at, at);
  return fd;
}

// --- Unix sockets -----------------------------------------------------------------------------

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;

const socketFn = libc.func("int socket(int domain, int type, int protocol)");
const connectFn = libc.func("int connect(int fd, const uint8_t *address, uint32 length)");
const shutdownFn = libc.func("int shutdown(int fd, int how)");
const setsockoptFn = libc.func(
  "int setsockopt(int fd, int level, int name, const uint8_t *value, uint32 length)",
);
const getsocknameFn = libc.func(
  "int getsockname(int fd, uint8_t *address, _Inout_ uint32 *length)",
);
const pipeFn = libc.func("int pipe2(_Out_ int *fds, int flags)");
koffi.struct("iovec", { base: "const uint8_t *", length: "size_t" });
koffi.struct("msghdr", {
  name: "const uint8_t *",
  nameLength: "uint32",
  parts: "iovec *",
  partCount: "size_t",
  control: "const uint8_t *",
  controlLength: "size_t",
  flags: "int",
});
const sendmsgFn = libc.func("intptr_t sendmsg(int fd, const msghdr *message, int flags)");

/** A path, or an abstract name as `@name`. man 7 unix: an abstract one is as long as it says. */
function unixAddress(place: string): Buffer {
  const isAbstract = place.startsWith("@");
  const path = Buffer.from(isAbstract ? `\0${place.slice(1)}` : `${place}\0`);
  const family = Buffer.alloc(2);
  family.writeUInt16LE(AF_UNIX);
  return Buffer.concat([family, path]);
}

/** A datagram socket whose sends wait for a slow receiver at most `waitMs`; with 0 not at all. */
export function datagramSocket(waitMs: number): number {
  const kind = SOCK_DGRAM | SOCK_CLOEXEC | (waitMs === 0 ? SOCK_NONBLOCK : 0);
  const fd = check(socketFn(AF_UNIX, kind, 0), "socket");
  if (waitMs > 0) setSendTimeout(fd, waitMs);
  return fd;
}

/**
 * A stream connected to `place`, to be written to only. Throws ENOENT or ECONNREFUSED when nobody listens
 * there, EAGAIN when it is not accepted within `waitMs`. man 2 connect.
 */
export function connectStream(place: string, waitMs: number): number {
  const SHUT_RD = 0;
  const fd = check(socketFn(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  try {
    const address = unixAddress(place);
    setSendTimeout(fd, waitMs);
    check(connectFn(fd, address, address.length), "connect");
    check(shutdownFn(fd, SHUT_RD), "shutdown");
    setSendTimeout(fd, 0);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Of sends, and of connect; 0 is for ever. man 7 socket, SO_SNDTIMEO. */
function setSendTimeout(fd: number, waitMs: number): void {
  const SO_SNDTIMEO = 21;
  const timeval = Buffer.alloc(16);
  timeval.writeBigInt64LE(BigInt(Math.floor(waitMs / 1000)), 0);
  timeval.writeBigInt64LE(BigInt((waitMs % 1000) * 1000), 8);
  check(setsockoptFn(fd, SOL_SOCKET, SO_SNDTIMEO, timeval, timeval.length), "setsockopt");
}

/**
 * Send one datagram, and copies of `fds` with it. Throws ENOENT and ECONNREFUSED when nobody receives
 * at `place`, EAGAIN when the receiver is behind, EMSGSIZE. man 2 sendmsg, man 3 cmsg.
 */
export function sendDatagram(fd: number, place: string, bytes: Buffer, fds: number[] = []): void {
  const MSG_NOSIGNAL = 0x4000;
  const name = unixAddress(place);
  const control = fds.length === 0 ? null : rights(fds);
  const message = {
    name,
    nameLength: name.length,
    parts: [{ base: bytes, length: bytes.length }],
    partCount: 1,
    control,
    controlLength: control?.length ?? 0,
    flags: 0,
  };
  check(Number(sendmsgFn(fd, message, MSG_NOSIGNAL)), "sendmsg");
}

/** One control message of SCM_RIGHTS: a header of 16 bytes, the descriptors, padding to 8. */
function rights(fds: readonly number[]): Buffer {
  const SCM_RIGHTS = 1;
  const HEADER = 16;
  const length = HEADER + 4 * fds.length;
  const control = Buffer.alloc(Math.ceil(length / 8) * 8);
  control.writeBigUInt64LE(BigInt(length), 0);
  control.writeInt32LE(SOL_SOCKET, 8);
  control.writeInt32LE(SCM_RIGHTS, 12);
  for (const [at, one] of fds.entries()) control.writeInt32LE(one, HEADER + 4 * at);
  return control;
}

/** Where a Unix socket is bound: a path, `@name`, or "" for nowhere. man 2 getsockname, man 7 unix. */
export function boundTo(fd: number): string {
  const address = Buffer.alloc(110);
  const length = [address.length];
  check(getsocknameFn(fd, address, length), "getsockname");
  const name = address.toString("utf8", 2, length[0]);
  return name.startsWith("\0") ? `@${name.slice(1)}` : name.replace(/\0.*$/s, "");
}

/** A pipe, closed on exec: what is written to `write` is read from `read`. man 2 pipe. */
export function openPipe(): { read: number; write: number } {
  const O_CLOEXEC = 0o2000000;
  const ends = [0, 0];
  check(pipeFn(ends, O_CLOEXEC), "pipe2");
  return { read: ends[0] ?? -1, write: ends[1] ?? -1 };
}

// --- posix_spawn ------------------------------------------------------------------------------

// Opaque structs, at most 80 (actions), 336 (attributes) and 128 bytes (signal set) in glibc and musl.
const attributes = Buffer.alloc(1024);
const actions = Buffer.alloc(256);
const everySignal = Buffer.alloc(128);
const noSignal = Buffer.alloc(128);

const posixSpawnFn = libc.func(
  "int posix_spawn(_Out_ int *pid, const char *path, void *actions, void *attributes, const char **argv, const char **envp)",
);
const actionsInit = libc.func("int posix_spawn_file_actions_init(void *actions)");
const actionsDestroy = libc.func("int posix_spawn_file_actions_destroy(void *actions)");
const addDup2 = libc.func("int posix_spawn_file_actions_adddup2(void *actions, int fd, int as)");
const addChdir = libc.func(
  "int posix_spawn_file_actions_addchdir_np(void *actions, const char *path)",
);

/** A new session, every signal with its default action and none blocked: nothing of ours is inherited. */
function prepareAttributes(): void {
  const POSIX_SPAWN_SETSIGDEF = 0x04;
  const POSIX_SPAWN_SETSIGMASK = 0x08;
  const POSIX_SPAWN_SETSID = 0x80;
  const flags = POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK;
  libc.func("int sigfillset(void *set)")(everySignal);
  libc.func("int sigemptyset(void *set)")(noSignal);
  libc.func("int posix_spawnattr_init(void *a)")(attributes);
  libc.func("int posix_spawnattr_setflags(void *a, short flags)")(attributes, flags);
  libc.func("int posix_spawnattr_setsigdefault(void *a, void *set)")(attributes, everySignal);
  libc.func("int posix_spawnattr_setsigmask(void *a, void *set)")(attributes, noSignal);
}

prepareAttributes();

/** What is executed: `path` as it is (no PATH lookup), `env` as `NAME=value` strings. */
export type Image = {
  readonly path: string;
  readonly argv: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  /** Our descriptors for its stdin, stdout, stderr, and further ones. */
  readonly stdio: readonly number[];
};

/**
 * Start a program as the leader of a new session and process group; its pid. When it returns, exec
 * has happened. Parent and child share memory until then (CLONE_VFORK), so its cost does not grow
 * with ours, as that of a fork does. The child is ours to reap. Throws the errno of whatever failed,
 * chdir and exec included; nothing runs then. man 3 posix_spawn.
 */
export function posixSpawn({ path, argv, env, cwd, stdio }: Image): number {
  const pid = [0];
  actionsInit(actions);
  try {
    for (const [as, fd] of stdio.entries()) checkReturned(addDup2(actions, fd, as), "dup2");
    checkReturned(addChdir(actions, cwd), "chdir");
    const [argvList, envList] = [argv, env].map((list) => [...list, null]);
    const errno = posixSpawnFn(pid, path, actions, attributes, argvList, envList);
    checkReturned(errno, "posix_spawn");
  } finally {
    actionsDestroy(actions);
  }
  return pid[0] ?? 0;
}
