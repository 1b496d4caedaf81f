// The system calls that Node lacks, through koffi: the only file that leaves JavaScript. Each wrapper
// is typed, names its manual page and throws an Error with the kernel's errno as `code`.

import net from "node:net";
import { constants } from "node:os";
import koffi from "koffi";

const libc = koffi.load(null);
// Numbers above 423 are the same on every architecture (Linux, arch/*/entry/syscalls).
const SYS_pidfd_open = 434;
const SYS_close_range = 436;
const syscallFn = libc.func("long syscall(long number, ...)");
const flockFn = libc.func("int flock(int fd, int operation)");

/** Bytes of a page, the unit of memory in /proc/PID/stat. man 2 getpagesize. */
export const pageBytes: number = libc.func("int getpagesize()")();

const errnoNames = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));

function check(result: number, call: string): number {
  if (result >= 0) return result;
  const errno = koffi.errno();
  const code = errnoNames.get(errno) ?? `E${errno}`;
  throw Object.assign(new Error(`${call}: ${code}`), { code, errno, syscall: call });
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
 * A file descriptor that stands for this very process, whatever becomes of its number. Throws ESRCH
 * when no such process is left, EMFILE when no descriptor is. man 2 pidfd_open.
 */
export function pidfdOpen(pid: number): number {
  return check(Number(syscallFn(SYS_pidfd_open, "int", pid, "uint", 0)), "pidfd_open");
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

type PipeHandle = { open(fd: number): number };

/** libuv's pipe class has no public name; a connecting Unix socket carries an instance of it. */
function borrowPipeClass(): new (kind: number) => PipeHandle {
  const socket = net.connect({ path: "\0procsup-no-such-socket" });
  socket.on("error", () => socket.destroy());
  // `_handle` is set synchronously by connect() on every Node since 0.12 and is not in the types.
  const { _handle } = socket as unknown as { _handle: PipeHandle };
  socket.destroy();
  return _handle.constructor as new (
    kind: number,
  ) => PipeHandle;
}

const Pipe = borrowPipeClass();

/**
 * Resolves once the process behind `pidfd` has ended, without a thread and without polling. Takes
 * the descriptor over and closes it. A pidfd turns readable at the end of its process (man 2
 * pidfd_open); libuv then reads it, gets EINVAL, and that error is the news.
 */
export function pidfdEnded(pidfd: number): Promise<void> {
  const handle = new Pipe(0);
  check(handle.open(pidfd), "uv_pipe_open");
  return new Promise((resolve) => {
    const options: object = { handle };
    const socket = new net.Socket(options);
    socket.once("error", () => resolve());
    socket.once("close", () => resolve());
    socket.resume();
  });
}
