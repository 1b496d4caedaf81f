// What stands between a new process and its command, under the same pid: a shell that joins the cgroup,
// and the descent to another user. Joining from inside is the only way without a race: before exec
// there is nothing that could have forked. It is also where a shell's habits are kept from the
// command's environment and from its exit code.

import { anonymousFile, type Image } from "../kernel/native.js";
import type { Account } from "../kernel/users.js";

/**
 * What the shell calls itself (man 5 proc_pid_comm), until exec: who ends under this name with 125 has
 * not come in, with 126 or 127 (POSIX, 2.8.2) has not become the command.
 */
export const GATE = "procsup-gate";

/** Its $0: what its words in the stderr of the process begin with, when it cannot become the command. */
const SPEAKER = "procsup";

const script = `{ printf ${GATE} >/proc/self/comm && echo 0 >"$1"; } || exit 125; shift; exec "$@"`;

/** Names that no shell holds as variables: it would drop them. POSIX, 2.5. */
const isName = /^[A-Za-z_][A-Za-z0-9_]*$/;
/** Names that one shell or another sets anew at its start, obeys, or keeps to itself. */
const isItsOwn =
  /^(IFS|OPTIND|OPTERR|PPID|E?UID|PS[124]|LINENO|S?RANDOM|SECONDS|SHELLOPTS|BASH.*|POSIXLY_CORRECT|KSH_VERSION|USER_ID|EPOCH.*|FUNCNAME|DIRSTACK|GROUPS|PIPESTATUS|HISTCMD|COMP_WORDBREAKS)$/;
/** Names that a shell adds where they were not given. */
const added = ["PWD", "OLDPWD", "SHLVL", "_"];

/** The same image by way of the cgroup whose `cgroup.procs` is at `procs`. */
export function enterCgroup(procs: string, image: Image): Image {
  const { direct, byEnv, clean } = throughShell(image);
  return {
    ...image,
    path: "/bin/sh",
    argv: ["sh", "-c", `${clean}${script}`, SPEAKER, procs, ...byEnv, ...image.argv],
    env: direct,
  };
}

const SETPRIV = "/usr/bin/setpriv";
/** After the descent: everything by the user's own rights, the working directory first. */
const asUserScript = `printf ${GATE} >/proc/self/comm; CDPATH= cd -P -- "$1" || exit 125
shift; eval "$(/bin/cat <&3)"; exec 3<&-;`;

/**
 * The same image as another user, with that user's groups, no capability and no way to gain one. Until
 * the descent nothing of the user's is obeyed: the environment comes after it, through a descriptor
 * (the image's last), as what is given to a shell of root could make it theirs. man 1 setpriv.
 */
export function becomeUser(image: Image, { uid, gid, groups }: Account): Image {
  const { direct, byEnv, clean } = throughShell(image);
  const lines = direct.map((variable) => `export ${quote(variable)}\n`);
  const descent = [
    `--reuid=${uid}`,
    `--regid=${gid}`,
    groups.length === 0 ? "--clear-groups" : `--groups=${groups.join(",")}`,
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--no-new-privs",
  ];
  const shell = ["/bin/sh", "-c", `${asUserScript} ${clean}exec "$@"`, SPEAKER, image.cwd];
  return {
    path: SETPRIV,
    argv: ["setpriv", ...descent, "--", ...shell, ...byEnv, ...image.argv],
    env: [],
    cwd: "/",
    stdio: [...image.stdio, anonymousFile(Buffer.from(lines.join("")))],
  };
}

/** One variable as a word of the shell. POSIX, 2.2.2. */
function quote(variable: string): string {
  const equals = variable.indexOf("=") + 1;
  return `${variable.slice(0, equals)}'${variable.slice(equals).replaceAll("'", "'\\''")}'`;
}

/** Which variables a shell hands on as they are, the words that set the others, how to forget its own. */
function throughShell(image: Image): { direct: string[]; byEnv: string[]; clean: string } {
  const direct: string[] = [];
  const aside: string[] = [];
  const given = new Set<string>();
  for (const variable of image.env) {
    const name = variable.slice(0, variable.indexOf("="));
    given.add(name);
    const isMoved = name === "PWD" && variable !== `PWD=${image.cwd}`;
    (isName.test(name) && !isItsOwn.test(name) && !isMoved ? direct : aside).push(variable);
  }
  const missing = added.filter((name) => !given.has(name));
  const clean = missing.length === 0 ? "" : `unset ${missing.join(" ")}; `;
  // env(1) sets what the shell cannot. Only those variables are seen in its arguments, and briefly.
  // A command with = in its name it would take for a variable, and what is behind it for the command.
  const asIs = image.argv[0]?.includes("=") === true ? ["/usr/bin/nice", "-n", "0", "--"] : [];
  const byEnv = aside.length === 0 ? [] : ["/usr/bin/env", "--", ...aside, ...asIs];
  return { direct, byEnv, clean };
}
