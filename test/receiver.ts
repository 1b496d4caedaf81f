// The other end of a datagram socket, as PID 1 or journald would hold it: what was sent, and which
// descriptors came with it. Node has no such sockets, so it is koffi here as it is in the daemon.

import { closeSync } from "node:fs";
import koffi from "koffi";
import { type Scene, until } from "./scenario.js";

const libc = koffi.load(null);
const socketFn = libc.func("int socket(int domain, int type, int protocol)");
const bindFn = libc.func("int bind(int fd, const uint8_t *address, uint32 length)");
koffi.struct("test_iovec", { base: "uint8_t *", length: "size_t" });
koffi.struct("test_msghdr", {
  name: "void *",
  nameLength: "uint32",
  parts: "test_iovec *",
  partCount: "size_t",
  control: "uint8_t *",
  controlLength: "size_t",
  flags: "int",
});
const recvmsgFn = libc.func("intptr_t recvmsg(int fd, _Inout_ test_msghdr *message, int flags)");

type Datagram = { text: string; fds: number[] };

export type Receiver = {
  /** The next datagram whose text has `part`; those before it are passed over. */
  next(part: string): Promise<Datagram>;
};

/** Receive at `place`, a path or `@name`. The descriptors that come are the caller's to close. */
export function receiveAt(scene: Scene, place: string): Receiver {
  const fd: number = socketFn(1, 2 | 0o2000000 | 0o4000, 0);
  scene.after(() => closeSync(fd));
  const path = place.startsWith("@") ? `\0${place.slice(1)}` : `${place}\0`;
  const address = Buffer.concat([Buffer.from([1, 0]), Buffer.from(path)]);
  if (bindFn(fd, address, address.length) !== 0) throw new Error(`bind: ${koffi.errno()}`);
  return {
    next: (part) =>
      until(`a datagram with ${part}`, () => {
        const datagram = receive(fd);
        return datagram?.text.includes(part) ? datagram : null;
      }),
  };
}

function receive(fd: number): Datagram | null {
  const bytes = Buffer.alloc(64 * 1024);
  const control = Buffer.alloc(256);
  const message = {
    name: null,
    nameLength: 0,
    parts: [{ base: bytes, length: bytes.length }],
    partCount: 1,
    control,
    controlLength: control.length,
    flags: 0,
  };
  const length = Number(recvmsgFn(fd, message, 0));
  if (length < 0) return null;
  const used = Number(control.readBigUInt64LE(0)); // cmsg_len; zero when nothing came
  const fds = used === 0 ? [] : Array.from({ length: (used - 16) / 4 }, (_, at) => at);
  return {
    text: bytes.toString("utf8", 0, length),
    fds: fds.map((at) => control.readInt32LE(16 + 4 * at)),
  };
}
