// The system calls on processes that Node lacks, through koffi. Each wrapper is typed, names its manual
// page and throws an Error with the kernel's errno as `code`; so do those of files.ts, unix.ts and users.ts,
// the only others that leave JavaScript.

import { writeSync } from "node:fs";
import { constants } from "node:os";
import koffi from "koffi";

export const libc = koffi.load(null);

/**
 * A system call that glibc has no function for, or has one that is too new or does more. Types are fixed: with
 * `...` a call takes half as long again, and has to name the type of each argument. man 2 syscall.
 */
export function systemCall(
  number: number,
  types: readonly string[],
): (...args: unknown[]) => number {
  const call = libc.func("syscall", "int", ["long", ...types]);
  return (...args) => call(number, ...args) as number;
}

// Numbers above 423 are the same on every architecture (Linux, arch/*/entry/syscalls).
const pidfdSendSignalFn = systemCall(424, ["int", "int", "void *", "uint"]);
const pidfdOpenFn = systemCall(434, ["int", "uint"]);
const closeRangeFn = systemCall(436, ["uint", "uint", "uint"]);
const flockFn = libc.func("int flock(int fd, int operation)");
const ioctlFn = libc.func("int ioctl(int fd, ulong request, ...)");
const waitidFn = libc.func("int waitid(int type, int id, void *info, int options)");
const prlimitFn = libc.func("int prlimit(int pid, int resource, void *set, void *old)");

/** Bytes of a page, the unit of memory in /proc/PID/stat. man 2 getpagesize. */
export const pageBytes: number = libc.func("int getpagesize()")();

/** Of two names for one number (EAGAIN, EWOULDBLOCK) the first is the usual one, so it is entered last. */
const errnoNames = new Map(
  Object.entries(constants.errno)
    .reverse()
    .map(([name, value]) => [value, name]),
);

/** `ENOENT` and the like. */
export function errnoName(errno: number): string {
  return errnoNames.get(errno) ?? `E${errno}`;
}

/** A failed call, as an Error that Node itself might have made. */
export function failure(call: string, errno: number): Error {
  const code = errnoName(errno);
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
  check(closeRangeFn(3, LAST, CLOSE_RANGE_CLOEXEC), "close_range");
}

// --- processes by descriptor ------------------------------------------------------------------

/**
 * A file descriptor that stands for this very process, whatever becomes of its number. Throws ESRCH
 * when no such process is left, EMFILE when no descriptor is. man 2 pidfd_open.
 */
export function pidfdOpen(pid: number): number {
  return check(pidfdOpenFn(pid, 0), "pidfd_open");
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
  check(pidfdSendSignalFn(pidfd, signal, null, flags), "pidfd_send_signal");
}

const siginfo = Buffer.alloc(128);

/** How a child ended, as waitid has it: an exit code, or the number of the signal that ended it. */
export type Ended = { by: "code"; code: number } | { by: "signal"; signal: number };

const P_ALL = 0;
const P_PID = 1;
const P_PIDFD = 3;
const WNOHANG = 1;
const WEXITED = 4;
const WNOWAIT = 0x01000000;

/**
 * The end of a child that has ended; `reap` gives its number back to the kernel, `peek` leaves it a zombie.
 * Null when it has not, and while somebody traces it: of such a zombie only the tracer is told, until it has
 * waited for it or is gone. Throws ECHILD when it is no child of ours, or reaped already. man 2 waitid, ptrace.
 */
export function waitEnded(pidfd: number, how: "peek" | "reap"): Ended | null {
  if (!wait(P_PIDFD, pidfd, how)) return null;
  const CLD_EXITED = 1;
  const status = siginfo.readInt32LE(24); // si_status; si_code stands at 8, also on arm64
  return siginfo.readInt32LE(8) === CLD_EXITED
    ? { by: "code", code: status }
    : { by: "signal", signal: status };
}

/**
 * Give the number of a child that has ended back to the kernel; before that it is nobody else's. False while a tracer
 * keeps it from us.
 */
export function reapEnded(pid: number): boolean {
  return wait(P_PID, pid, "reap");
}

/** The number of some child that has ended, and is left a zombie; null when there is none to be seen. */
export function peekEnded(): number | null {
  const result: number = waitidFn(P_ALL, 0, siginfo, WNOHANG | WEXITED | WNOWAIT);
  // Without any child, as after most ends; to throw and catch an Error would take ten times the call.
  if (result < 0 && koffi.errno() === constants.errno.ECHILD) return null;
  check(result, "waitid");
  return siginfo.readInt32LE(16) || null; // si_pid
}

/**
 * True when there was one, of which `siginfo` tells then. Without WNOHANG it would be EAGAIN where there is none:
 * libuv makes a pidfd non-blocking.
 */
function wait(type: number, id: number, how: "peek" | "reap"): boolean {
  const options = WNOHANG | WEXITED | (how === "peek" ? WNOWAIT : 0);
  check(waitidFn(type, id, siginfo, options), "waitid");
  return siginfo.readInt32LE(0) !== 0; // si_signo
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

// --- limits -------------------------------------------------------------------------------------

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

const RLIMIT_NOFILE = 7;
/** What programs expect, and what select(2) can take. man 5 systemd.exec, LimitNOFILE=. */
const USUAL_FILES = 1024n;

/**
 * Run `spawn` so that whatever it starts has the usual soft limit of open files: Node raises its own to
 * the hard one. Our own is restored. man 2 prlimit.
 */
function withUsualFiles<T>(spawn: () => T): T {
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

/**
 * A new session, every signal with its default action and none blocked: nothing of ours is inherited. glibc
 * keeps signals 32 and 33 for itself, and leaves them ignored.
 */
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
    // Not before: glibc takes no descriptor beyond the limit in force when an action is added.
    const errno: number = withUsualFiles(() =>
      posixSpawnFn(pid, path, actions, attributes, argvList, envList),
    );
    checkReturned(errno, "posix_spawn");
  } finally {
    actionsDestroy(actions);
  }
  return pid[0] ?? 0;
}
