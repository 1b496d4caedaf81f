// journald, the system's log: records with fields for the daemon's own, and streams that a process
// writes to by itself. Where journald is not there, neither is this.
// systemd.io/JOURNAL_NATIVE_PROTOCOL; for the streams, man 3 sd_journal_stream_fd.

import { existsSync, writeSync } from "node:fs";
import { connectStream, datagramSocket, sendDatagram } from "../kernel/unix.js";

const RECORDS = "/run/systemd/journal/socket";
const STREAMS = "/run/systemd/journal/stdout";

/** How long journald may take to accept a stream. */
const CONNECT_MS = 500;

/**
 * A way to send records that never waits, null where there is no journald. It tells the bytes taken, or
 * `full`: not now. A record that is refused for good counts as taken: there is nobody to tell.
 */
export function openRecords(): ((record: Buffer) => number | "full") | null {
  if (!existsSync(RECORDS)) return null;
  const socket = datagramSocket(0);
  return (record) => {
    try {
      sendDatagram(socket, RECORDS, record);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") return "full";
    }
    return record.length;
  };
}

/**
 * A descriptor that turns each line written to it into a record under `identifier`; a line may begin with a
 * priority, like `<3>`. It goes on across restarts of journald. Throws with the errno of connect(2).
 */
export function openStream(identifier: string): number {
  const fd = connectStream(STREAMS, CONNECT_MS);
  const name = identifier.replace(/\p{Cc}/gu, "?") || "?";
  const [unit, priority, prefixes, toSyslog, toKmsg, toConsole] = ["", 6, 1, 0, 0, 0];
  const header = [name, unit, priority, prefixes, toSyslog, toKmsg, toConsole];
  writeSync(fd, header.map((line) => `${line}\n`).join(""));
  return fd;
}
