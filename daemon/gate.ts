// The way into a cgroup: a shell that joins it and then becomes the command, under the same pid. Joining
// from inside is the only way without a race: before exec there is nothing that could have forked. It
// is also where a shell's habits are kept from the command's environment and from its exit code.

import type { Image } from "./native.js";

/**
 * What the shell calls itself (man 5 proc_pid_comm), until exec: who ends under this name with 125 has
 * not come in, with 126 or 127 (POSIX, 2.8.2) has not become the command.
 */
export const GATE = "procsup-gate";

const script = `{ printf ${GATE} >/proc/self/comm && echo 0 >"$0"; } || exit 125; exec "$@"`;

/** Names that no shell holds as variables: it would drop them. POSIX, 2.5. */
const isName = /^[A-Za-z_][A-Za-z0-9_]*$/;
/** Names that one shell or another sets anew at its start, obeys, or keeps to itself. */
const isItsOwn =
  /^(IFS|OPTIND|PPID|PS[124]|LINENO|RANDOM|SECONDS|SHELLOPTS|BASH.*|POSIXLY_CORRECT|KSH_VERSION|USER_ID|EPOCH.*|FUNCNAME|DIRSTACK|GROUPS)$/;
/** Names that a shell adds where they were not given. */
const added = ["PWD", "OLDPWD", "SHLVL", "_"];

/** The same image by way of the cgroup whose `cgroup.procs` is at `procs`. */
export function enterCgroup(procs: string, image: Image): Image {
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
  const byEnv = aside.length === 0 ? [] : ["/usr/bin/env", ...aside];
  return {
    ...image,
    path: "/bin/sh",
    argv: ["sh", "-c", `${clean}${script}`, procs, ...byEnv, ...image.argv],
    env: direct,
  };
}
