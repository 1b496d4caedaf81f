// `status` calls per second, against an echo server that answers as many bytes and does nothing else.
// One load generator serves both, in turns.

import { join } from "node:path";
import type { Question as EchoQuestion } from "./echo.js";
import { type Figure, median } from "./figures.js";
import type { Answer, Question } from "./load.js";
import { type Program, type Stage, sleep, startDaemon, startProgram } from "./scene.js";

/** Calls per second, one sample a round. */
type Rates = { ours: number[]; echo: number[] };

export async function measureStatus(stage: Stage, quick: boolean): Promise<Figure[]> {
  const rounds = quick ? 4 : 10;
  const durationMs = quick ? 400 : 1_000;
  const { client, socket } = await startDaemon(stage);
  const { id } = await client.spawn({ command: [...sleep] });
  const echoSocket = join(stage.folder, "echo");
  const echo: Program<EchoQuestion, boolean> = await startProgram(stage, "echo");
  await echo.ask({ socket: echoSocket, result: await client.status({ id }) });
  const load: Program<Question, Answer> = await startProgram(stage, "load");
  const request = `${JSON.stringify({ jsonrpc: "2.0", id: 1, method: "status", params: { id } })}\n`;

  const figures: Figure[] = [];
  for (const connections of [1, 50]) {
    const ask = async (path: string) => {
      const question = { socket: path, request, connections, durationMs };
      const { calls, elapsedMs } = await load.ask(question);
      return (1000 * calls) / elapsedMs;
    };
    await alternate(ask, socket, echoSocket, 1); // warm-up
    const rates = await alternate(ask, socket, echoSocket, rounds);
    figures.push({
      name: `status, ${connections} connection${connections === 1 ? "" : "s"}`,
      unit: "perSecond",
      value: median(rates.ours),
      floor: median(rates.echo),
      target: { of: "ratio", is: "at least", bound: 0.7 },
    });
  }
  return figures;
}

async function alternate(
  ask: (path: string) => Promise<number>,
  socket: string,
  echoSocket: string,
  rounds: number,
): Promise<Rates> {
  const rates: Rates = { ours: [], echo: [] };
  for (let round = 0; round < rounds; round++) {
    rates.ours.push(await ask(socket));
    rates.echo.push(await ask(echoSocket));
  }
  return rates;
}
