// Turns of the event loop, and work that is shared: what the daemon's fairness is made of.

import { equal, is, ok } from "uvu/assert";
import { shared, turn } from "../daemon/runtime/slices.js";
import { scenario } from "./scenario.js";

scenario("of each lane one goes on in a turn: a scan waits for none of the calls", async () => {
  const order: string[] = [];
  const calls = Array.from({ length: 20 }, async (_, at) => {
    await turn();
    order.push(`call ${at}`);
  });
  for (let step = 0; step < 3; step++) {
    await turn("scans");
    order.push(`scan ${step}`);
  }
  ok(order.indexOf("scan 2") <= 5, order.join());
  await Promise.all(calls);
  equal(
    order.filter((one) => one.startsWith("call")),
    Array.from({ length: 20 }, (_, at) => `call ${at}`),
  );
});

scenario(
  "who asks in one moment shares a run, who asks after it began gets a later one",
  async () => {
    let runs = 0;
    const ends: (() => void)[] = [];
    const ask = shared(async () => {
      runs += 1;
      const own = runs;
      await new Promise<void>((end) => ends.push(end));
      return own;
    });
    const early = [ask(), ask()];
    await turn();
    const late = [ask(), ask()];
    await turn();
    is(runs, 1);
    ends[0]?.();
    equal(await Promise.all(early), [1, 1]);
    await turn();
    is(runs, 2);
    ends[1]?.();
    equal(await Promise.all(late), [2, 2]);
  },
);

scenario("a run that fails fails for those who shared it, and for nobody else", async () => {
  let runs = 0;
  const ask = shared(async () => {
    runs += 1;
    if (runs === 1) throw new Error("the first");
    return runs;
  });
  const [one, other] = await Promise.allSettled([ask(), ask()]);
  equal([one?.status, other?.status], ["rejected", "rejected"]);
  is(await ask(), 2);
});
