// What the daemon says to the service manager that started it, without a helper process: the
// datagrams of sd_notify(3), descriptors for its store, the watchdog. What came from it stands in
// the environment, and settings.ts has read that. Nothing is decided here, and without a manager
// nothing happens.

import { closeSync } from "node:fs";
import net from "node:net";
import { datagramSocket, openPipe, sendDatagram } from "../kernel/unix.js";
import type { Unit } from "./settings.js";
import { LONGEST_TIMER_MS } from "./slices.js";

/** How long PID 1 may leave a message waiting, and with it the main loop. */
const SEND_MS = 500;
/** After that it is asked again, without waiting. */
const AGAIN_MS = 100;

/** What sendmsg says where nobody can be told, also of a place that is none. man 2 sendmsg, man 7 unix. */
const unreachable = [
  "ENOENT",
  "ECONNREFUSED",
  "EACCES",
  "EPERM",
  "ENOTDIR",
  "ELOOP",
  "EPROTOTYPE",
  "EINVAL",
];
/** Changes of the status line within this time are told as one. */
const STATUS_MS = 250;

/** True: it was sent. False: there is no manager, or it is behind. */
type Sent = boolean;

export type Manager = {
  /** Send assignments, like `READY=1`, in one message: once more, in their order, while the manager is behind. */
  tell(...assignments: string[]): Sent;
  /**
   * Have copies of descriptors kept while no daemon lives; the next one finds them in `Unit.fds`. They are
   * to stay open until `unstore`, since this too is told as often as it needs. A name is at most 255 characters,
   * without colon. Dropped without a word when the store is full (FileDescriptorStoreMax=).
   */
  store(name: string, fds: number[]): Sent;
  /** Take everything of that name out of the store again. */
  unstore(name: string): Sent;
  /** Resolves when all that was told before has been worked on, true, or `limitMs` is over, false. */
  settled(limitMs: number): Promise<boolean>;
  /** Call whenever the status line may have changed; it is made when it is told. */
  statusChanged(): void;
};

/** A manager to speak to; `status` makes the line that `systemctl status` shows. */
export function connectManager(unit: Unit, status: () => string): Manager {
  const { notifySocket } = unit;
  const socket = notifySocket === null ? -1 : datagramSocket(SEND_MS);
  const send = (text: string, fds: readonly number[] = [], waits = true) => {
    if (notifySocket === null) return "nobody";
    try {
      sendDatagram(socket, notifySocket, Buffer.from(text), { fds, waits });
      return "sent";
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      // To wait on after a signal would be to wait as long again, for each one that comes.
      if (code === "EAGAIN" || code === "EINTR") return "behind";
      if (unreachable.includes(code)) return "nobody";
      throw error;
    }
  };
  /** With the descriptors that go along. */
  const untold = new Map<string, readonly number[]>();
  const tellLater = () => setTimeout(tellAgain, AGAIN_MS).unref();
  const tellAgain = () => {
    for (const [text, fds] of untold) {
      if (send(text, fds, false) === "behind") break;
      untold.delete(text);
    }
    if (untold.size > 0) tellLater();
  };
  const tell = (text: string, fds: readonly number[] = []) => {
    const sent = untold.size > 0 ? "behind" : send(text, fds);
    if (sent === "behind") {
      if (untold.size === 0) tellLater();
      // At the end, also one that waits already: a READY=1 is for the RELOADING=1 before it.
      untold.delete(text);
      untold.set(text, fds);
    }
    return sent === "sent";
  };
  let shown = "";
  let isDue = false;
  const show = () => {
    isDue = false;
    const line = status();
    if (line === shown) return;
    // One of those that wait may hold an older line.
    if (untold.size > 0 || send(`STATUS=${line}`, [], false) === "behind") statusChanged();
    else shown = line;
  };
  const statusChanged = () => {
    if (isDue || notifySocket === null) return;
    isDue = true;
    setTimeout(show, STATUS_MS).unref();
  };
  return {
    tell: (...assignments) => tell(assignments.join("\n")),
    store: (name, fds) => tell(storing(name), fds),
    unstore(name) {
      untold.delete(storing(name)); // its descriptors are about to be closed
      return tell(`FDSTOREREMOVE=1\nFDNAME=${name}`);
    },
    settled: (limitMs) => barrier((text, fds) => send(text, fds) === "sent", limitMs),
    statusChanged,
  };
}

/** FDPOLL=0: a pidfd hangs up at the end of its process, and just then it is needed. */
function storing(name: string): string {
  return `FDSTORE=1\nFDNAME=${name}\nFDPOLL=0`;
}

/** The manager closes the descriptor that it is sent once it has got that far. man 3 sd_notify_barrier. */
async function barrier(
  send: (text: string, fds: number[]) => Sent,
  limitMs: number,
): Promise<boolean> {
  const { read, write } = openPipe();
  const isSent = send("BARRIER=1", [write]);
  closeSync(write);
  if (!isSent) {
    closeSync(read);
    return false;
  }
  const end = new net.Socket({ fd: read, readable: true, writable: false });
  return new Promise((resolve) => {
    const timer = setTimeout(() => settle(false), limitMs);
    const settle = (isSettled: boolean) => {
      clearTimeout(timer);
      end.destroy();
      resolve(isSettled);
    };
    end.once("end", () => settle(true));
    end.resume();
  });
}

/**
 * Feed the watchdog from the main loop, at half its time: a loop that hangs is noticed because this
 * timer hangs with it. man 3 sd_watchdog_enabled.
 */
export function feedWatchdog(unit: Unit, manager: Manager): void {
  if (unit.watchdogMs === null) return;
  const everyMs = Math.min(unit.watchdogMs / 2, LONGEST_TIMER_MS);
  setInterval(() => manager.tell("WATCHDOG=1"), everyMs).unref();
}

/** The assignments that begin a reload; READY=1 ends it. man 5 systemd.service, Type=notify-reload. */
export function reloading(): string[] {
  return ["RELOADING=1", `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`];
}
