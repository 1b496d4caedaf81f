#!/usr/bin/env node
// CLIENTS clients of the daemon at SOCKET, each of which connects, asks for the status of PID, goes, and soon comes
// again: at once, when it was cut short. Says `ready` once all have been there; after TERM nobody comes any more,
// and when the last has gone it prints what was counted.

import { setTimeout } from "node:timers/promises";
import { connect } from "../../dist/client/client.js";

const [, , socket, clients, pid] = process.argv;
const QUESTIONS = 5;
/** Between two visits: without it the daemon would have time for nobody else. */
const AWAY_MS = 50;

const counts = {
  connects: 0,
  answers: 0,
  /** Connections that ended with their daemon. */
  cut: 0,
  /** Connections made between two daemons, and those of them that got no answer. */
  between: 0,
  unanswered: 0,
};
/** Why a connection could not be made, or a question was refused. */
const refused = new Set();
/** How many daemons there were; the last one accepts no more once it is seen to cut a connection. */
let daemons = 1;
let isLost = false;
let isEnding = false;

async function ask(client, daemon) {
  await client.status({ pid: Number(pid) });
  counts.answers += 1;
  if (daemon > daemons) isLost = false;
  daemons = Math.max(daemons, daemon);
}

/** True when it was cut short. */
async function visit() {
  const isBetween = isLost;
  const daemon = daemons + (isBetween ? 1 : 0);
  const client = await connect({ socket });
  counts.connects += 1;
  if (isBetween) counts.between += 1;
  let answers = 0;
  try {
    for (; answers < QUESTIONS; answers++) await ask(client, daemon);
  } catch (error) {
    if (error.kind !== "disconnected") throw error;
    counts.cut += 1;
    if (daemon === daemons) isLost = true;
    if (isBetween && answers === 0) counts.unanswered += 1;
  }
  client.close();
  return answers < QUESTIONS;
}

const tryVisit = () => visit().catch(({ message }) => void refused.add(message));

async function keepVisiting() {
  while (!isEnding) {
    const isCut = await tryVisit();
    if (!isCut) await setTimeout(AWAY_MS);
  }
}

process.once("SIGTERM", () => {
  isEnding = true;
});
const crowd = Array.from({ length: Number(clients) }, tryVisit);
await Promise.all(crowd);
console.log("ready");
await Promise.all(crowd.map(keepVisiting));
console.log(JSON.stringify({ ...counts, refused: [...refused] }));
