// Unix sockets as Node does not know them: who connected, datagrams, descriptors that travel. man 7 unix.

import { closeSync } from "node:fs";
import { constants } from "node:os";
import koffi from "koffi";
import { check, libc } from "./native.js";

const getsockoptFn = libc.func(
  "int getsockopt(int fd, int level, int name, void *value, void *length)",
);

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
    const endMs = performance.now() + waitMs;
    let result: number = connectFn(fd, address, address.length);
    // With a time limit of the socket's it is not made again after a signal. man 7 signal.
    while (result < 0 && koffi.errno() === constants.errno.EINTR && performance.now() < endMs) {
      result = connectFn(fd, address, address.length);
    }
    check(result, "connect");
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

/** `waits`: as long as the socket was made to; else not at all. */
type Sending = { fds?: readonly number[]; waits?: boolean };

/**
 * Send one datagram, and copies of `fds` with it. Throws ENOENT and ECONNREFUSED when nobody receives
 * at `place`, EAGAIN when the receiver is behind, EINTR when a signal came while it was waited for, EMSGSIZE.
 * man 2 sendmsg, man 3 cmsg, man 7 signal.
 */
export function sendDatagram(
  fd: number,
  place: string,
  bytes: Buffer,
  { fds = [], waits = true }: Sending = {},
): void {
  const MSG_DONTWAIT = 0x40;
  const MSG_NOSIGNAL = 0x4000;
  const flags = MSG_NOSIGNAL | (waits ? 0 : MSG_DONTWAIT);
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
  check(Number(sendmsgFn(fd, message, flags)), "sendmsg");
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

/** Where a Unix socket is bound: a path, `@name`, or "" for nowhere; null for other sockets. man 2 getsockname, man 7 unix. */
export function boundTo(fd: number): string | null {
  const address = Buffer.alloc(110);
  const length = [address.length];
  check(getsocknameFn(fd, address, length), "getsockname");
  if (address.readUInt16LE(0) !== AF_UNIX) return null;
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

// --- who connected ----------------------------------------------------------------------------

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
