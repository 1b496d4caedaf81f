#!/usr/bin/env node
// procsup, the command: what it can be asked for, and which calls answer that. How what comes of a call
// is said is told in outcome.ts.

import { realpathSync } from "node:fs";
import { constants } from "node:os";
import { resolve } from "node:path";
import { Command, CommanderError, Option } from "commander";
import type { Client, Process } from "../client.js";
import { version } from "../version.js";
import { outputModes, type Signal, statuses } from "../wire.js";
import {
  checkTarget,
  checkTargets,
  isGiven,
  oneOf,
  readCount,
  readDurationMs,
  readEnv,
  readSignal,
  readStart,
  readTarget,
  type Start,
} from "./arguments.js";
import { endForeground, hangUp, hasTerminal, runInForeground } from "./foreground.js";
import { install, uninstall, type Wish } from "./install.js";
import { type LogOptions, showLogs } from "./logs.js";
import { type Common, findTarget, forEach, run, say } from "./outcome.js";
import { listAll } from "./pages.js";
import {
  codeOfProcess,
  exitCodes,
  infoText,
  jsonText,
  processTable,
  reportText,
  runCode,
  signaledText,
  startCode,
  statusText,
  straysText,
  terminatedText,
  unknownText,
  usageTable,
} from "./print.js";

/** For what is wrong before options are read; then they say it themselves. */
const asJson = isGiven("--json", process.argv);

const program = new Command("procsup")
  .description("Run commands under procsupd, and end them for certain.")
  .version(version)
  .enablePositionalOptions()
  .exitOverride()
  .configureOutput({
    writeOut: (text) => void process.stdout.write(asJson ? jsonText({ text: text.trim() }) : text),
    writeErr: (text) => asJson || process.stderr.write(text),
    outputError: (text, write) => write(text.replace(/^error/, "procsup")),
  });

function command(definition: string, description: string): Command {
  return program.command(definition).description(description);
}

let usageCode: number = exitCodes.usage;

/** One whose exit code is the command's, so that none of ours may look like one of those, not even for wrong usage. */
function speaking(name: string, description: string): Command {
  return command(name, description).exitOverride((error) => {
    usageCode = exitCodes.ownFailure;
    throw error;
  });
}

// --- start ----------------------------------------------------------------------------------

function starting(name: string, description: string): Command {
  return speaking(name, description)
    .argument("<command...>", "the command and its own flags, as they are")
    .passThroughOptions()
    .option("-n, --name <name>", "a name to address it by")
    .option("--cwd <dir>", "where to run it (default: here)")
    .option("-e, --env <NAME=VALUE>", "set a variable; may be repeated", readEnv)
    .option("--clear-env", "do not pass this shell's environment on")
    .option("--user <name>", "run as this user, as at login (root only)")
    .option("--stop-signal <signal>", "what terminate sends first (default: TERM)", readSignal)
    .option("--grace <duration>", "from there to KILL (default: 10s)", readDurationMs)
    .option("--output <mode>", outputModes.join(", "), oneOf(...outputModes))
    .option("--strays <what>", "end or keep, when the leader ends", oneOf("end", "keep"));
}

starting("start", "run a command; prints its pid").action(
  async (argv: string[], options: Common & Start) => {
    const work = async (client: Client) => {
      const started = await client.spawn(readStart(argv, options));
      return { json: started, text: `${started.pid}\n`, code: 0 };
    };
    await run(options, work, startCode);
  },
);

starting("run", "run a command in the foreground; exits as it does, Ctrl-C terminates it").action(
  async (argv: string[], options: Common & Start) => {
    const { json: asked = false } = options;
    const work = async (client: Client) => {
      const json = await runInForeground(client, readStart(argv, options), asked);
      tellUnknown(json.process, options);
      return { json, text: "", code: runCode(json.process) };
    };
    await run(options, work, startCode);
  },
);

/** Where nobody knows how it ended, or it never ran, a person is told why the code is one of ours. */
function tellUnknown(ended: Process, { json }: Common): void {
  if (!json) process.stderr.write(unknownText(ended));
}

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

const LOOKING = "a pid, a name, an id or its beginning";

command("status", "one process and its members; exits 3 when it has ended")
  .argument("<target>", LOOKING, checkTarget)
  .action(async (target: string, options: Common) => {
    await run(options, async (client) => {
      const status = await client.status(await findTarget(client, target));
      const code = status.endedAt === null ? 0 : exitCodes.ended;
      return { json: status, text: statusText(status), code };
    });
  });

command("usage", "CPU and memory, measured for a quarter of a second")
  .argument("<targets...>", LOOKING, checkTargets)
  .action((targets: string[], options: Common) => {
    const act = async (client: Client, target: string) =>
      client.usage(await findTarget(client, target));
    return forEach(targets, options, act, usageTable);
  });

command("info", "the daemon: version, containment, counts, limits").action(
  async (options: Common) => {
    await run(options, async (client) => {
      const info = await client.info({});
      return { json: info, text: infoText(info), code: 0 };
    });
  },
);

command("logs", "what a process wrote: its stdout to stdout, its stderr to stderr")
  .argument("<target>", LOOKING, checkTarget)
  .option("--stream <stream>", "only stdout or stderr", oneOf("stdout", "stderr"))
  .option("-n, --lines <count>", "only the last lines, of the last 8 MiB", readCount)
  .addOption(
    new Option("--since-start", "all that is kept (the default without -n)").conflicts("lines"),
  )
  .option("-f, --follow", "go on until the process has ended")
  .action(async (target: string, options: Common & LogOptions) => {
    await run(options, async (client) => {
      const json = await showLogs(client, await findTarget(client, target), options);
      return { json, text: "", code: 0 };
    });
  });

speaking("wait", "wait for the end; exits with the process's own code, 128 + N for signal N")
  .argument("<target>", LOOKING, checkTarget)
  .option("--timeout <duration>", "exit with 124 when it is over", readDurationMs)
  .action(async (target: string, options: Common & { timeout?: number }) => {
    const { timeout } = options;
    const limit = timeout === undefined ? {} : { timeoutMs: timeout };
    const work = async (client: Client) => {
      const json = await client.wait({ ...(await findTarget(client, target)), ...limit });
      if (json.ended) tellUnknown(json.process, options);
      const code = json.ended ? codeOfProcess(json.process) : exitCodes.timedOut;
      return { json, text: "", code };
    };
    await run(options, work, () => exitCodes.ownFailure);
  });

// --- ending and signalling ------------------------------------------------------------------

const ACTING = "pids, ids or names";

type Stop = Common & { force?: boolean; grace?: number; wait?: boolean; dryRun?: boolean };

function end(targets: string[], options: Stop): Promise<void> {
  const { force = false, grace, wait = true, dryRun = false } = options;
  const plain = { force, wait, dryRun };
  const wish = grace === undefined ? plain : { ...plain, graceMs: grace };
  const act = (client: Client, target: string) =>
    client.terminate({ ...readTarget(target), ...wish });
  return forEach(targets, options, act, terminatedText);
}

command("terminate", "end a whole tree: stop signal, grace, KILL, proof")
  .alias("stop")
  .argument("<targets...>", ACTING, checkTargets)
  .option("-f, --force", "KILL at once, also in somebody else's grace")
  .option("--grace <duration>", "from the stop signal to KILL, like 5s", readDurationMs)
  .option("--no-wait", "do not wait for the end")
  .option("--dry-run", "say who would be ended, and do nothing")
  .action(end);

command("kill", "terminate --force")
  .argument("<targets...>", ACTING, checkTargets)
  .option("--no-wait", "do not wait for the end")
  .action((targets: string[], options: Stop) => end(targets, { ...options, force: true }));

type Strays = Common & { end?: boolean; force?: boolean; grace?: number };

command("strays", "living processes that bear our signs and belong to no known process")
  .option("--end", "end them: TERM, grace, KILL, proof")
  .option("-f, --force", "with --end: KILL at once")
  .option("--grace <duration>", "with --end: from TERM to KILL (default: 10s)", readDurationMs)
  .action(async (options: Strays, self: Command) => {
    const { end: ends = false, force = false, grace } = options;
    if (!ends && (force || grace !== undefined)) {
      self.error("error: '--force' and '--grace' are for the end: add '--end'");
    }
    const plain = { end: ends, force };
    await run(options, async (client) => {
      const found = await client.strays(grace === undefined ? plain : { ...plain, graceMs: grace });
      return { json: found, text: straysText(found), code: 0 };
    });
  });

command("signal", "send a signal to the leader, or to the whole tree")
  .argument("<signal>", "like HUP, SIGHUP or 1", readSignal)
  .argument("<targets...>", ACTING, checkTargets)
  .option("--tree", "to every member")
  .action((signal: Signal, targets: string[], options: Common & { tree?: boolean }) => {
    const to = options.tree ? "tree" : "leader";
    const act = (client: Client, target: string) =>
      client.signal({ ...readTarget(target), signal, to });
    const show = signaledText.bind(null, signal);
    return forEach(targets, options, act, show);
  });

for (const verb of ["pause", "resume"] as const) {
  const meaning = { pause: "stop a tree where it stands", resume: "let a paused tree go on" };
  command(verb, meaning[verb])
    .argument("<targets...>", ACTING, checkTargets)
    .action((targets: string[], options: Common) => {
      const act = (client: Client, target: string) => client[verb](readTarget(target));
      const show = (all: Process[]) => all.map(({ pid }) => `${verb}d: PID ${pid}\n`).join("");
      return forEach(targets, options, act, show);
    });
}

// --- systemd --------------------------------------------------------------------------------

/** The package that this program belongs to. */
const folder = resolve(realpathSync(process.argv[1] ?? ""), "../..");

for (const verb of ["install", "uninstall"] as const) {
  const meaning = {
    install: "put systemd units in place for this package, enable and start them",
    uninstall: "stop and remove them",
  };
  command(verb, meaning[verb])
    .option("--user", "for `systemctl --user`, without root")
    .option("--dry-run", "say what would be done, and do nothing")
    .action((options: Common & Wish) => {
      const programs = { node: process.execPath, folder };
      return say(options, async () => {
        const report = verb === "install" ? install(programs, options) : uninstall(options);
        return { json: report, text: reportText(report), code: 0 };
      });
    });
}

// --------------------------------------------------------------------------------------------

/** Their daemon is systemd's, whose units say where it listens. */
const withoutSocket = ["install", "uninstall"];

for (const each of [program, ...program.commands]) {
  each.option("--json", "print one JSON document, errors included");
  if (withoutSocket.includes(each.name())) continue;
  each.option("--socket <path>", "the daemon's socket (PROCSUP_SOCKET)");
}
// `procsup --json list` is as good as `procsup list --json`.
program.hook("preAction", (_, chosen) => {
  const { socket } = program.opts<Common>();
  if (socket !== undefined && withoutSocket.includes(chosen.name())) {
    chosen.error(`error: '${chosen.name()}' has no option '--socket'`);
  }
  const given = { ...program.opts(), ...chosen.opts() };
  for (const [key, value] of Object.entries(given)) chosen.setOptionValue(key, value);
});

/** Whoever reads has gone, as `head` when it has enough: end without a word, as SIGPIPE would. */
function leave({ code, message }: NodeJS.ErrnoException): void {
  if (isLeaving) return;
  isLeaving = true;
  const go = () => {
    if (code === "EIO" && hasTerminal) return hangUp();
    if (code !== "EPIPE") process.stderr.write(`procsup: cannot write: ${message}\n`);
    process.exit(code === "EPIPE" ? 128 + constants.signals.SIGPIPE : 1);
  };
  void endForeground().then(go, go); // nobody can be told what that came to
}
let isLeaving = false;
process.stdout.on("error", leave);
process.stderr.on("error", leave);

program.parseAsync().catch((error: unknown) => {
  if (!(error instanceof CommanderError)) throw error;
  // Help and version are no errors; without --json commander has printed the text of all others.
  process.exitCode = error.exitCode === 0 ? 0 : usageCode;
  if (error.exitCode === 0 || !asJson) return;
  const isHelp = error.code === "commander.help";
  const message = isHelp ? "a command is missing" : error.message.replace(/^error: /, "");
  process.stdout.write(jsonText({ error: { kind: "usage", message } }));
});
