#!/usr/bin/env node
// procsup, the command: arguments -> calls -> text or JSON -> exit code. Data goes to stdout, chatter
// and errors to stderr; with --json stdout holds one JSON document and nothing else, errors included.

import { Command, CommanderError } from "commander";
import {
  oneOf,
  readCount,
  readDurationMs,
  readEnv,
  readSignal,
  readTarget,
  signalNumber,
} from "./arguments.js";
import { type Client, connect, Disconnected, type Process, Refusal } from "./client.js";
import { showLogs } from "./logs.js";
import { infoText, processTable, statusText, terminatedText, usageTable } from "./print.js";
import { version } from "./version.js";
import { type Address, type Kind, type Params, statuses } from "./wire.js";

type Common = { json?: boolean; socket?: string };

/** What a command has to say, and the exit code it ends with. */
type Outcome = { json: unknown; text: string; code: number };

const USAGE_ERROR = 2;
/** Of `procsup` itself where the process's own code is passed on: as env(1), timeout(1) and others. */
const OWN_FAILURE = 125;
const TIMED_OUT = 124;

/** LSB codes where there is one: 3 not running (status), 4 unknown, 7 not running (actions). */
const codes: Partial<Record<Kind, number>> = { process_not_found: 4, already_terminated: 7 };

function codeOf(error: unknown): number {
  return error instanceof Refusal ? (codes[error.kind] ?? 1) : 1;
}

function errorJson(error: unknown): unknown {
  if (error instanceof Refusal) {
    return { error: { kind: error.kind, message: error.message, ...error.facts } };
  }
  const kind = error instanceof Disconnected ? "disconnected" : "internal_error";
  return { error: { kind, message: (error as Error).message } };
}

/** Connect, do one thing, say it, leave with its code. */
async function run(
  options: Common,
  work: (client: Client) => Promise<Outcome>,
  failureCode: (error: unknown) => number = codeOf,
): Promise<void> {
  try {
    const client = await connect(options.socket === undefined ? {} : { socket: options.socket });
    const { json, text, code } = await work(client);
    process.stdout.write(options.json ? `${JSON.stringify(json, null, 2)}\n` : text);
    process.exitCode = code;
    client.close();
  } catch (error) {
    say(options, error);
    process.exitCode = failureCode(error);
  }
}

function say(options: Common, error: unknown): void {
  if (options.json) process.stdout.write(`${JSON.stringify(errorJson(error), null, 2)}\n`);
  else process.stderr.write(`procsup: ${(error as Error).message}\n`);
}

/** One call for each target, at once; a line for each, in order; the first failure's code. */
async function forEach<R>(
  options: Common,
  targets: readonly string[],
  act: (address: Address) => Promise<R>,
  show: (results: R[]) => string,
): Promise<Outcome> {
  const settled = await Promise.allSettled(targets.map((target) => act(readTarget(target))));
  const failures = settled.flatMap((one) => (one.status === "rejected" ? [one.reason] : []));
  const results = settled.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  if (!options.json) for (const failure of failures) say(options, failure);
  const documents = settled.map((one) =>
    one.status === "fulfilled" ? one.value : errorJson(one.reason),
  );
  return {
    json: documents.length === 1 ? documents[0] : documents,
    text: results.length === 0 ? "" : show(results),
    code: failures.length === 0 ? 0 : codeOf(failures[0]),
  };
}

const program = new Command("procsup")
  .description("Run commands under procsupd, and end them for certain.")
  .version(version)
  .enablePositionalOptions()
  .exitOverride();

function command(definition: string, description: string): Command {
  return program
    .command(definition)
    .description(description)
    .option("--json", "print one JSON document")
    .option("--socket <path>", "the daemon's socket (PROCSUP_SOCKET)")
    .exitOverride();
}

// --- start ----------------------------------------------------------------------------------

type Start = Common & {
  name?: string;
  cwd?: string;
  env?: Record<string, string>;
  clearEnv?: boolean;
  user?: string;
  stopSignal?: NodeJS.Signals;
  grace?: number;
  output?: "split" | "merged" | "null";
  strays?: "end" | "keep";
};

function spawnParams(argv: string[], options: Start): Params<"spawn"> {
  const { name, cwd, env, clearEnv, user, stopSignal, grace, output, strays } = options;
  const given = { name, cwd, user, stopSignal, graceMs: grace, output, strays };
  const own = clearEnv ? {} : (process.env as Record<string, string>);
  const set = Object.entries(given).filter(([, value]) => value !== undefined);
  return { command: argv, ...Object.fromEntries(set), env: { ...own, ...env } };
}

/** 127: not found, 126: found but cannot be run, 125: everything else. POSIX, 2.8.2. */
function startCode(error: unknown): number {
  if (!(error instanceof Refusal) || error.kind !== "spawn_failed") return OWN_FAILURE;
  const { stage } = error.facts;
  if (stage === "command") return error.facts["errno"] === "ENOENT" ? 127 : 126;
  return stage === "interpreter" || stage === "exec" ? 126 : OWN_FAILURE;
}

command("start", "run a command; prints its pid")
  .argument("<command...>", "the command and its own flags, as they are")
  .passThroughOptions()
  .option("-n, --name <name>", "a name to address it by")
  .option("--cwd <dir>", "where to run it (default: here)")
  .option("-e, --env <NAME=VALUE>", "set a variable; may be repeated", readEnv)
  .option("--clear-env", "do not pass this shell's environment on")
  .option("--user <name>", "run as this user (root only)")
  .option("--stop-signal <signal>", "what terminate sends first (default: TERM)", readSignal)
  .option("--grace <duration>", "from there to KILL (default: 10s)", readDurationMs)
  .option("--output <mode>", "split, merged or null", oneOf("split", "merged", "null"))
  .option("--strays <what>", "end or keep, when the leader ends", oneOf("end", "keep"))
  .action(async (argv: string[], options: Start) => {
    const work = async (client: Client) => {
      const started = await client.spawn(spawnParams(argv, options));
      return { json: started, text: `${started.pid}\n`, code: 0 };
    };
    await run(options, work, startCode);
  });

// --- looking --------------------------------------------------------------------------------

type List = Common & { all?: boolean; status?: (typeof statuses)[number]; quiet?: boolean };

command("list", "the living processes")
  .alias("ls")
  .option("-a, --all", "ended ones too")
  .option("--status <status>", `only ${statuses.join(", ")}`, oneOf(...statuses))
  .option("-q, --quiet", "ids only")
  .action(async (options: List) => {
    await run(options, async (client) => {
      const { status, all = false } = options;
      const processes = await listAll(client, status === undefined ? { all } : { all, status });
      const ids = processes.map(({ id }) => `${id}\n`).join("");
      const text = options.quiet ? ids : processTable(processes);
      return { json: { processes }, text, code: 0 };
    });
  });

/** All pages of a list. */
async function listAll(client: Client, params: Params<"list">): Promise<Process[]> {
  const { processes, next } = await client.list(params);
  return next === null
    ? processes
    : [...processes, ...(await listAll(client, { ...params, after: next }))];
}

command("status", "one process and its members; exits 3 when it has ended")
  .argument("<target>", "a pid, an id or a name")
  .action(async (target: string, options: Common) => {
    await run(options, async (client) => {
      const status = await client.status(readTarget(target));
      const isOver = ["exited", "terminated", "failed", "lost"].includes(status.status);
      return { json: status, text: statusText(status), code: isOver ? 3 : 0 };
    });
  });

command("usage", "CPU and memory, measured for a quarter of a second")
  .argument("<targets...>", "pids, ids or names")
  .action(async (targets: string[], options: Common) => {
    await run(options, (client) => forEach(options, targets, client.usage, usageTable));
  });

command("info", "the daemon: version, containment, counts, limits").action(
  async (options: Common) => {
    await run(options, async (client) => {
      const info = await client.info({});
      return { json: info, text: infoText(info), code: 0 };
    });
  },
);

type Logs = Common & { stream?: "stdout" | "stderr"; lines?: number; follow?: boolean };

command("logs", "what a process wrote: its stdout to stdout, its stderr to stderr")
  .argument("<target>", "a pid, an id or a name")
  .option("--stream <stream>", "only stdout or stderr", oneOf("stdout", "stderr"))
  .option("-n, --lines <count>", "only the last lines", readCount)
  .option("-f, --follow", "go on until the process has ended")
  .action(async (target: string, options: Logs) => {
    await run(options, async (client) => {
      const json = await showLogs(client, readTarget(target), options);
      return { json, text: "", code: 0 };
    });
  });

// --- ending and signalling ------------------------------------------------------------------

type Stop = Common & { force?: boolean; grace?: number; wait?: boolean };

async function end(targets: string[], options: Stop): Promise<void> {
  const { force = false, grace: graceMs, wait = true } = options;
  const wish = graceMs === undefined ? { force, wait } : { force, wait, graceMs };
  await run(options, (client) =>
    forEach(
      options,
      targets,
      (address) => client.terminate({ ...address, ...wish }),
      (results) => results.map(terminatedText).join(""),
    ),
  );
}

command("terminate", "end a whole tree: stop signal, grace, KILL, proof")
  .alias("stop")
  .argument("<targets...>", "pids, ids or names")
  .option("-f, --force", "KILL at once, also in somebody else's grace")
  .option("--grace <duration>", "from the stop signal to KILL, like 5s", readDurationMs)
  .option("--no-wait", "do not wait for the end")
  .action(end);

command("kill", "terminate --force")
  .argument("<targets...>", "pids, ids or names")
  .option("--no-wait", "do not wait for the end")
  .action((targets: string[], options: Stop) => end(targets, { ...options, force: true }));

command("signal", "send a signal to the leader, or to the whole tree")
  .argument("<signal>", "like HUP, SIGHUP or 1", readSignal)
  .argument("<targets...>", "pids, ids or names")
  .option("--tree", "to every member")
  .action(
    async (signal: NodeJS.Signals, targets: string[], options: Common & { tree?: boolean }) => {
      const to = options.tree ? "tree" : "leader";
      const act = (client: Client) => (address: Address) =>
        client.signal({ ...address, signal, to });
      const show = (results: { signaled: number }[]) =>
        results.map(({ signaled }) => `${signal} sent to ${signaled}\n`).join("");
      await run(options, (client) => forEach(options, targets, act(client), show));
    },
  );

for (const verb of ["pause", "resume"] as const) {
  const meaning = { pause: "stop a tree where it stands", resume: "let a paused tree go on" };
  command(verb, meaning[verb])
    .argument("<targets...>", "pids, ids or names")
    .action(async (targets: string[], options: Common) => {
      const show = (results: Process[]) =>
        results.map(({ pid }) => `${verb}d: PID ${pid}\n`).join("");
      await run(options, (client) => forEach(options, targets, client[verb], show));
    });
}

command("wait", "wait for the end; exits with the process's own code, 128 + N for signal N")
  .argument("<target>", "a pid, an id or a name")
  .option("--timeout <duration>", "exit with 124 when it is over", readDurationMs)
  .action(async (target: string, options: Common & { timeout?: number }) => {
    const { timeout: timeoutMs } = options;
    const params = { ...readTarget(target), ...(timeoutMs === undefined ? {} : { timeoutMs }) };
    const work = async (client: Client) => {
      const { ended, process } = await client.wait(params);
      return {
        json: { ended, process },
        text: "",
        code: ended ? codeOfProcess(process) : TIMED_OUT,
      };
    };
    await run(options, work, () => OWN_FAILURE);
  });

function codeOfProcess({ exitCode, signal }: Process): number {
  if (signal !== null) return 128 + signalNumber(signal);
  return exitCode ?? OWN_FAILURE;
}

// --------------------------------------------------------------------------------------------

program.parseAsync().catch((error: unknown) => {
  if (!(error instanceof CommanderError)) throw error;
  // Help and version are no errors; commander has printed the text of all others.
  process.exitCode = error.exitCode === 0 ? 0 : USAGE_ERROR;
});
