// Hostile clients, in a process of their own: on each connection of the line door 20 inputs at a time, and
// beside each a request to the HTTP door, sent again as soon as they are answered.

import net from "node:net";
import { createDice, type Dice, hostileLine, hostileRequest } from "../hostile.js";
import { answerQuestions } from "./program.js";

/** Begin, and go on until asked to stop. */
export type Question = { socket: string; seed: number; connections: number } | "stop";

export type Answer = { inputs: number };

const LINES = 20;

let over = false;
let inputs = 0;

function floodLines(path: string, dice: Dice): void {
  const socket = net.connect(path);
  socket.on("error", () => socket.destroy());
  const send = () => {
    if (over) return void socket.destroy();
    const lines = Array.from({ length: LINES }, () => hostileLine(dice));
    inputs += LINES;
    const proper = Buffer.from('{"jsonrpc":"2.0","id":"mark","method":"nothing"}');
    const all = [Buffer.from(" "), ...lines, proper];
    socket.write(Buffer.concat(all.flatMap((line) => [line, Buffer.from("\n")])));
  };
  socket.on("data", (chunk) => {
    if (chunk.includes('"mark"')) send();
  });
  send();
}

function floodRequests(path: string, dice: Dice): void {
  if (over) return;
  inputs += 1;
  const socket = net.connect({ path, allowHalfOpen: true });
  socket.on("error", () => socket.destroy());
  socket.on("end", () => socket.destroy());
  socket.on("close", () => floodRequests(path, dice));
  socket.resume();
  socket.end(hostileRequest(dice));
}

async function answer(question: Question): Promise<Answer> {
  if (question === "stop") {
    over = true;
    return { inputs };
  }
  const dice = createDice(question.seed);
  for (let count = 0; count < question.connections; count++) {
    floodLines(question.socket, dice);
    floodRequests(question.socket, dice);
  }
  return { inputs };
}

answerQuestions(answer);
