// What the gate hands on: its command lines, executed by the shell that /bin/sh is here, and by a bash in its place.

import { spawnSync } from "node:child_process";
import { closeSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { equal } from "uvu/assert";
import type { Image } from "../daemon/kernel/native.js";
import { becomeUser, enterCgroup } from "../daemon/tree/gate.js";
import { scenarioUnless, whyNot } from "./scenario.js";

/** Names that bash is known to change, to drop, to obey or to add, in one mode or another. */
const names = `
  _ IFS OPTIND OPTERR OPTARG REPLY PPID UID EUID PS0 PS1 PS2 PS3 PS4 PWD OLDPWD SHLVL ENV POSIXLY_CORRECT
  SHELLOPTS BASHOPTS BASH BASHPID BASH_ALIASES BASH_ARGC BASH_ARGV BASH_ARGV0 BASH_CMDS BASH_COMMAND BASH_COMPAT
  BASH_ENV BASH_EXECUTION_STRING BASH_LINENO BASH_LOADABLES_PATH BASH_MONOSECONDS BASH_REMATCH BASH_SOURCE
  BASH_SUBSHELL BASH_TRAPSIG BASH_VERSINFO BASH_VERSION BASH_XTRACEFD LINENO SECONDS RANDOM SRANDOM EPOCHSECONDS
  EPOCHREALTIME DIRSTACK FUNCNAME FUNCNEST GROUPS PIPESTATUS COPROC MAPFILE HISTCMD HISTSIZE HISTFILE
  HISTFILESIZE HISTCONTROL HISTIGNORE HISTTIMEFORMAT histchars COLUMNS LINES MAIL MAILCHECK MAILPATH
  PROMPT_COMMAND PROMPT_DIRTRIM COMP_WORDBREAKS COMP_CWORD COMP_KEY COMP_LINE COMP_POINT COMP_TYPE COMP_WORDS
  COMPREPLY READLINE_LINE READLINE_POINT CDPATH GLOBIGNORE GLOBSORT EXECIGNORE FIGNORE IGNOREEOF TMOUT
  TIMEFORMAT TMPDIR HOSTNAME HOSTTYPE MACHTYPE OSTYPE SHELL HOME LANG LC_ALL LC_COLLATE LC_CTYPE LC_MESSAGES
  TERM CHILD_MAX EMACS INSIDE_EMACS auto_resume SSH_CLIENT
`.match(/\S+/g) as string[];

/** Some that a shell reads as a number, a folder, a list or a function, and what only quoting keeps. */
const values = ["x", "", "7", "007", "a:b", "() { :; }", "it's\n$HOME `id`"];

type Shell = { file: string; argv: string[]; env: string[]; fd: number | null };

/** What a gate makes of an image: the shell's arguments, its environment and the descriptor that it is to have as 3. */
const gates: Record<string, (image: Image) => Omit<Shell, "file">> = {
  "into a cgroup": (image) => {
    const { argv, env } = enterCgroup(join(image.cwd, "cgroup.procs"), image);
    return { argv: argv.slice(1), env: [...env], fd: null };
  },
  // As it goes on behind the descent, which is root's alone.
  "to another user": (image) => {
    const { argv, env, stdio } = becomeUser(image, nobody);
    return {
      argv: argv.slice(argv.indexOf("/bin/sh") + 1),
      env: [...env],
      fd: stdio.at(-1) ?? null,
    };
  },
};

const nobody = { name: "nobody", uid: 1, gid: 1, groups: [], home: "/", shell: "/bin/sh" };

/** What the command says that such a shell becomes. */
function run(cwd: string, { file, argv, env, fd }: Shell): string {
  const { stdout, stderr, status } = spawnSync(file, argv, {
    argv0: "sh",
    cwd,
    encoding: "utf8",
    env: Object.fromEntries(env.map((one) => one.split(/=(.*)/s))),
    stdio: ["ignore", "pipe", "pipe", ...(fd === null ? [] : [fd])],
  });
  if (fd !== null) closeSync(fd);
  equal([stderr, status], ["", 0]);
  return stdout;
}

/** What a bash does not leave as it is, and what too many callers have to be spared it by env(1). */
const isBashs = /^(_|OLDPWD|SHLVL|LC_.*)$/;
const others = names.filter((name) => !isBashs.test(name));

const shells: [string, string, string | null, string[]][] = [
  ["the shell of this machine", "/bin/sh", null, names],
  ["a bash", "bash", whyNot(["bash", "-c", "true"]), others],
];

const nameOf = (variable: string) => variable.slice(0, variable.indexOf("="));

for (const [shell, file, why, given] of shells) {
  for (const [where, gate] of Object.entries(gates)) {
    scenarioUnless(why, `${where}: ${shell} hands on every environment`, ({ folder }) => {
      // env(1) would take it for a variable.
      const command = join(folder, "x=y");
      symlinkSync("/usr/bin/env", command);
      const image = { path: command, argv: [command, "-0"], cwd: folder, stdio: [0, 1, 2] };
      const environments = values.map((value) => given.map((name) => `${name}=${value}`));
      const single = given.map((name) => [`${name}=x`]);
      for (const env of [...environments, ...single]) {
        const said = run(folder, { file, ...gate({ ...image, env }) }).split("\0");
        const own = said.filter(
          (one) => one !== "" && (given === names || !isBashs.test(nameOf(one))),
        );
        equal(own.sort(), [...env].sort());
      }
    });
  }
}
