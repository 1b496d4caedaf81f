// `procsup run`: a command as if this shell had started it. Its output is printed as it comes, its end is ours,
// and whoever interrupts us ends its whole tree.

import { isatty } from "node:tty";
import { type Client, Refusal } from "../client.js";
import type { Params, Process } from "../wire.js";
import { showLogs } from "./logs.js";

const interruptions = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** A process as it ended; with `json` what it wrote, as `logs --json` has it. */
export type Ran = { process: Process; output: unknown };

/**
 * Spawn, and print until the end, unless `json` is wanted. Interrupted, it terminates the tree, the second time by force;
 * the third ends this program, as without us. Rejects as `spawn` does, with `termination_failed` and who survives, and
 * with Disconnected: then the process may run on.
 */
export async function runInForeground(
  client: Client,
  params: Params<"spawn">,
  json: boolean,
): Promise<Ran> {
  const spawned = client.spawn(params);
  const end = async (force: boolean) => {
    const { id } = await spawned;
    await client.terminate({ id, force });
  };
  const { failed, forget, hasHungUp } = onInterruption(end);
  underWay = () => end(false);
  const ran = async () => {
    const { id } = await spawned;
    // Asked at once: at its end it may be forgotten soon.
    const [{ process }, output] = await Promise.all([
      client.wait({ id }),
      showLogs(client, { id }, { follow: true, json }),
    ]);
    return { process, output };
  };
  return Promise.race([ran(), failed]).finally(() => {
    forget();
    underWay = null;
    if (hasHungUp()) hangUp();
  });
}

/** Whether there is a terminal, which may go. */
export const hasTerminal = [0, 1, 2].some((fd) => isatty(fd));

/** End as whoever handles no SIGHUP: at an exit Node would see to the terminal, and abort where that is gone. */
export function hangUp(): void {
  process.removeAllListeners("SIGHUP");
  process.kill(process.pid, "SIGHUP");
}

let underWay: (() => Promise<void>) | null = null;

/** For want of a reader this program has to go: what runs in the foreground ends first, else it would run on unseen. */
export async function endForeground(): Promise<void> {
  const end = underWay;
  underWay = null;
  await end?.();
}

/** `failed` rejects with what an interruption came to, if that is no end. */
function onInterruption(end: (force: boolean) => Promise<void>) {
  let times = 0;
  let fail: (error: unknown) => void;
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  let isHungUp = false;
  const interrupt = (signal: NodeJS.Signals) => {
    times += 1;
    isHungUp ||= signal === "SIGHUP" && hasTerminal;
    if (times > 1) setImmediate(forget); // once that is on its way
    end(times > 1).catch((error: unknown) => {
      const isOver = error instanceof Refusal && error.kind === "already_terminated";
      if (!isOver) fail(error);
    });
  };
  const forget = () => {
    for (const signal of interruptions) process.off(signal, interrupt);
  };
  for (const signal of interruptions) process.on(signal, interrupt);
  return { failed, forget, hasHungUp: () => isHungUp };
}
