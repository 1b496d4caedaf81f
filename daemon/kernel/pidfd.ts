// Processes held by a pidfd: a signal through it reaches that very process or nobody, whatever becomes
// of its number, and its end is an event. Who is to be signalled, and why, is not known here.

import { closeSync } from "node:fs";
import net from "node:net";
import { constants } from "node:os";
import type { Signal } from "../../client/wire.js";
import { pidfdOpen, pidfdSendSignal } from "./native.js";
import { withReserve } from "./reserve.js";

/** Whom a signal reached. `nobody`: all are gone, or zombies; `refused`: not permitted (EPERM). */
export type Sent = "sent" | "nobody" | "refused";

function attempt(send: () => void): Sent {
  try {
    send();
    return "sent";
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ESRCH") return "nobody";
    if (code === "EPERM") return "refused";
    throw error;
  }
}

/** Signal the process behind a pidfd. */
export function signalProcess(pidfd: number, signal: Signal): Sent {
  return attempt(() => pidfdSendSignal(pidfd, constants.signals[signal], "process"));
}

/**
 * Signal the process group that the process behind `pidfd` leads or led; null only asks whether it
 * has members. Zombies are members: "sent" is no proof of life, "nobody" is proof that none is left.
 */
export function signalGroup(leader: { pid: number; pidfd: number }, signal: Signal | null): Sent {
  const number = signal === null ? 0 : constants.signals[signal];
  if (reachesGroups) return attempt(() => pidfdSendSignal(leader.pidfd, number, "group"));
  return attempt(() => process.kill(-leader.pid, number));
}

/** Linux 6.9. Asked of ourselves: ESRCH where we lead no group, EINVAL where the kernel cannot. */
export const reachesGroups = probeGroups();

function probeGroups(): boolean {
  const pidfd = pidfdOpen(process.pid);
  try {
    pidfdSendSignal(pidfd, 0, "group");
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "EINVAL";
  } finally {
    closeSync(pidfd);
  }
}

/** Open a pidfd; null when there is no such process any more. Throws EMFILE and ENFILE. */
export function hold(pid: number): number | null {
  try {
    return pidfdOpen(pid);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return null;
    throw error;
  }
}

/**
 * Signal a process of which only the number is known: hold it, judge it, then signal whom is held.
 * `isOurs` is asked while the number cannot pass to anybody else, unless its bearer is dead.
 */
export function signalHeld(
  pid: number,
  isOurs: (pid: number) => boolean,
  send: (pidfd: number) => Sent,
): Sent {
  return withReserve(() => {
    const pidfd = hold(pid);
    if (pidfd === null) return "nobody";
    try {
      return isOurs(pid) ? send(pidfd) : "nobody";
    } finally {
      closeSync(pidfd);
    }
  });
}

/** False once its parent has reaped the process behind `pidfd`; a zombie is still there. */
export function isUnreaped(pidfd: number): boolean {
  return attempt(() => pidfdSendSignal(pidfd, 0, "process")) !== "nobody";
}

// --- ends -------------------------------------------------------------------------------------

/** What net.Socket has under it, as far as it is needed; Node's types leave it out. */
type PipeHandle = {
  open(fd: number): number;
  readStart(): number;
  close(): void;
  unref(): void;
  /** What was read; nothing when reading failed. */
  onread: (bytes?: ArrayBuffer) => void;
};

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

/** Told of whatever epoll can tell of a descriptor, without a thread. */
export const Pipe = borrowPipeClass();

/**
 * Call `ended` once when the process behind `pidfd` has ended (it may still be a zombie), without a
 * thread and without polling. The descriptor belongs to the watch from now on and stays usable until
 * the function returned closes both. A pidfd turns readable at the end of its process (man 2
 * pidfd_open); libuv then reads it, gets EINVAL, and that is the news.
 */
export function watchEnd(pidfd: number, ended: () => void): () => void {
  const handle = new Pipe(0);
  const failed = handle.open(pidfd) || handle.readStart();
  if (failed !== 0) throw new Error(`cannot watch a pidfd: libuv says ${failed}`);
  handle.onread = ended;
  return () => handle.close();
}

/** Resolves once the process behind `pidfd` has ended; closes it. */
export function untilEnded(pidfd: number): Promise<void> {
  return new Promise((resolve) => {
    const close = watchEnd(pidfd, () => {
      close();
      resolve();
    });
  });
}
