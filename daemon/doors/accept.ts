// Who is let in: connections are counted, in all and for each user, told apart by their first byte and
// handed to their door. What is said there is not known here.

import type { Server, Socket } from "node:net";
import { type Limits, limits, Refusal } from "../../client/wire.js";
import type { Door, Finish, Visitor } from "./connection.js";

/** Who has connected, as the kernel has it, or why nobody is let in. */
export type Guest<C> = { readonly refusal: Refusal } | Visitor<C>;

export type Doors<C> = { readonly line: Door<C>; readonly http: Door<C> };

/** How those inside are asked to go, and how many each user has. */
type Inside = {
  readonly finishers: Map<Socket, Finish>;
  readonly perUser: Map<number, number>;
};

/** How long one who is turned away may take to say in which language, and then to read why. */
const TURNED_AWAY_MS = 100;
const SEEN_OFF_MS = 1_000;
/** Of those, at once; a further one is told in a line. */
const TURNED_AWAY = 64;

/**
 * Serve the connections of `server`, which is told to pause them at first. The function returned ends
 * them all once their replies are written, or after `graceMs`; `mayAsk` lets those ask on who were just told something.
 */
export function serve<C>(
  server: Server,
  doors: Doors<C>,
  welcome: (socket: Socket) => Guest<C>,
  bounds: Limits = limits,
): (graceMs: number, mayAsk: boolean) => Promise<void> {
  const inside: Inside = { finishers: new Map(), perUser: new Map() };
  let turnedAway = 0;
  const turnAway = (socket: Socket, refusal: Refusal) => {
    turnedAway += 1;
    const isCrowded = turnedAway > TURNED_AWAY;
    socket.once("close", () => {
      turnedAway -= 1;
    });
    awaitFirst(socket, isCrowded ? 0 : TURNED_AWAY_MS, (first) => {
      doorFor(doors, first).refuse(socket, refusal);
      seeOff(socket, isCrowded ? 0 : SEEN_OFF_MS);
    });
  };
  server.on("connection", (socket) => {
    socket.on("error", () => socket.destroy()); // EPIPE, ECONNRESET: the client is gone
    const guest = welcome(socket);
    if ("refusal" in guest) {
      turnAway(socket, guest.refusal);
      return;
    }
    const full = whyFull(inside, guest.uid, bounds);
    if (full !== null) {
      turnAway(socket, full);
      return;
    }
    if (guest.patience.waiting >= bounds.faultyWaiting) {
      turnAway(socket, tooFaulty);
      return;
    }
    enter(inside, socket, guest.uid);
    const listen = () => {
      if (socket.destroyed) return;
      awaitFirst(socket, bounds.firstByteMs, (first) => {
        if (first === null) socket.destroy();
        else inside.finishers.set(socket, doorFor(doors, first).open(socket, first, guest));
      });
    };
    // What it says is read later, its end included.
    if (guest.patience.isOver()) void guest.patience.turn().then(listen);
    else listen();
  });
  return (graceMs, mayAsk) => closeAll(inside, graceMs, mayAsk);
}

const tooFaulty = new Refusal(
  "limit_exceeded",
  "This program has sent too much that makes no sense, and waits for that: see the errors it got",
  { limit: "faultyWaiting" },
);

/** HTTP's methods begin with a capital letter, and no JSON text does. */
function doorFor<C>({ line, http }: Doors<C>, first: Buffer | null): Door<C> {
  const [byte = 0] = first ?? [];
  return byte >= 0x41 && byte <= 0x5a ? http : line;
}

/** Root can do everything anyway, and must get in when others have taken all that they may. */
function whyFull({ finishers, perUser }: Inside, uid: number, bounds: Limits): Refusal | null {
  const isTrusted = uid === 0 || uid === process.geteuid?.();
  const places = bounds.connections - (isTrusted ? 0 : bounds.connectionsReserved);
  if (finishers.size >= places) {
    const message = `The daemon has ${finishers.size} connections already: try again later`;
    return new Refusal("limit_exceeded", message, { limit: "connections" });
  }
  if (isTrusted || (perUser.get(uid) ?? 0) < bounds.connectionsPerUser) return null;
  const message = `This user has ${bounds.connectionsPerUser} connections already: close some`;
  return new Refusal("limit_exceeded", message, { limit: "connectionsPerUser" });
}

function enter({ finishers, perUser }: Inside, socket: Socket, uid: number): void {
  finishers.set(socket, () => socket.destroy());
  perUser.set(uid, (perUser.get(uid) ?? 0) + 1);
  socket.once("close", () => {
    finishers.delete(socket);
    const left = (perUser.get(uid) ?? 1) - 1;
    if (left > 0) perUser.set(uid, left);
    else perUser.delete(uid);
  });
}

/** The first bytes of a connection; null when it says nothing in time, or is gone. */
function awaitFirst(socket: Socket, withinMs: number, then: (first: Buffer | null) => void): void {
  const done = (first: Buffer | null) => {
    clearTimeout(timer);
    socket.off("data", done).off("end", silent).off("close", silent);
    then(first);
  };
  const silent = () => done(null);
  const timer = setTimeout(silent, withinMs);
  socket.on("data", done).on("end", silent).on("close", silent);
  socket.resume();
}

/** Whoever has yet to read why would not, once it is told that nobody reads what it writes (EPIPE). */
function seeOff(socket: Socket, withinMs: number): void {
  const timer = setTimeout(() => socket.destroy(), withinMs);
  socket.once("end", () => socket.destroy()).once("close", () => clearTimeout(timer));
  socket.resume();
}

async function closeAll({ finishers }: Inside, graceMs: number, mayAsk: boolean): Promise<void> {
  // What has been sent by now lies in the kernel: two turns take it in, first bytes and the rest.
  for (let turns = 0; turns < 2; turns++) await new Promise(setImmediate);
  const closed = [...finishers].map(([socket, finish]) => {
    const gone = new Promise<void>((resolve) => socket.once("close", () => resolve()));
    finish(mayAsk);
    return gone;
  });
  const timer = setTimeout(() => {
    for (const socket of finishers.keys()) socket.destroy();
  }, graceMs);
  await Promise.all(closed);
  clearTimeout(timer);
}
