// `procsup install` and `uninstall`: the units of systemd/, made to fit the node and the package that run
// this, put where an administrator's own units go. First a plan, then its steps; drop-ins are nobody's
// but the administrator's, and no file is replaced that was not written here.

import { execFileSync } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

/** `node`: the binary; `folder`: the package, with dist/ and systemd/ in it. Both real and absolute. */
export type Programs = { node: string; folder: string };

export type Wish = { user?: boolean; dryRun?: boolean };

type Step =
  | { do: "write"; path: string; text: string }
  | { do: "remove"; path: string }
  | { do: "run"; argv: string[] };

/** What was done, or with `dryRun` would be, as lines for people; and what they should know after it. */
export type Report = { steps: string[]; notes: string[] };

/** Every file that is installed begins with it. */
const MARK = "# Written by `procsup install";
const UNITS = ["procsup.socket", "procsup.service"];

class CannotInstall extends Error {
  readonly kind = "cannot_install";
}

/**
 * Write units (and for the system, group and directories), enable and start them; what is there already
 * stays as it is. Throws for a user without the right, where systemd does not run, for programs that
 * others could change, and for files of those names that are somebody else's; nothing is changed then.
 */
export function install(programs: Programs, wish: Wish): Report {
  checkPlace(wish);
  const daemon = join(programs.folder, "dist/procsupd.cjs");
  const paths = [programs.node, daemon];
  paths.forEach(checkPath);
  if (!wish.user) {
    paths.forEach(checkOwners);
    addonsOf(daemon).forEach(checkOwners);
  }
  const files = filesFor(programs, wish);
  for (const { path } of files) checkOurs(path);
  const fresh = files.filter(({ path, text }) => !existsSync(path) || read(path) !== text);
  const writes = fresh.map((file): Step => ({ do: "write", ...file }));
  // Processes survive the restart that brings a changed unit into force.
  const begin = fresh.length > 0 ? "restart" : "start";
  const steps: Step[] = [
    ...writes,
    ...(wish.user ? [] : systemFiles()),
    systemctl(wish, "daemon-reload"),
    systemctl(wish, "enable", ...UNITS),
    systemctl(wish, begin, "procsup.service"),
  ];
  const notes = wish.user
    ? ["loginctl enable-linger keeps it running after you log out"]
    : [
        "members of the group procsup may use it: usermod -aG procsup NAME",
        "they name it by PROCSUP_SOCKET=/run/procsup.sock or --socket",
      ];
  notes.push(`to undo: procsup uninstall${wish.user ? " --user" : ""}`);
  return carryOut(steps, notes, wish);
}

/**
 * Stop, which ends all processes, disable, and remove what `install` wrote. Output, group and drop-ins
 * stay. Throws as `install` does.
 */
export function uninstall(wish: Wish): Report {
  checkPlace(wish);
  const paths = placesFor(wish).map(([, path]) => path);
  const present = paths.filter(existsSync);
  if (present.length === 0) return { steps: [], notes: ["it is not installed"] };
  present.forEach(checkOurs);
  const steps: Step[] = [
    systemctl(wish, "disable", "--now", ...UNITS),
    ...present.map((path): Step => ({ do: "remove", path })),
    systemctl(wish, "daemon-reload"),
  ];
  const state = wish.user ? "~/.local/state/procsup" : "/var/lib/procsup and the group procsup";
  return carryOut(steps, [`left in place: ${state}, and any drop-ins`], wish);
}

// --- what goes where --------------------------------------------------------------------------

/** File in systemd/ -> where it is installed. */
function placesFor({ user }: Wish): [string, string][] {
  if (user) {
    const config = process.env["XDG_CONFIG_HOME"] || join(homedir(), ".config");
    return UNITS.map((name) => [`user/${name}`, join(config, "systemd/user", name)]);
  }
  return [
    ...UNITS.map((name): [string, string] => [name, join("/etc/systemd/system", name)]),
    ["procsup.sysusers", "/etc/sysusers.d/procsup.conf"],
    ["procsup.tmpfiles", "/etc/tmpfiles.d/procsup.conf"],
  ];
}

function filesFor({ node, folder }: Programs, wish: Wish): { path: string; text: string }[] {
  return placesFor(wish).map(([name, path]) => {
    const text = readFileSync(join(folder, "systemd", name), "utf8")
      .replaceAll("@node@", node)
      .replaceAll("@procsupd@", join(folder, "dist/procsupd.cjs"));
    return { path, text };
  });
}

/** At boot systemd does this by itself. */
function systemFiles(): Step[] {
  return [
    { do: "run", argv: ["systemd-sysusers", "/etc/sysusers.d/procsup.conf"] },
    { do: "run", argv: ["systemd-tmpfiles", "--create", "/etc/tmpfiles.d/procsup.conf"] },
  ];
}

function systemctl({ user }: Wish, ...args: string[]): Step {
  return { do: "run", argv: ["systemctl", ...(user ? ["--user"] : []), ...args] };
}

// --- what stands against it -------------------------------------------------------------------

/** man 3 sd_booted; a user's manager has a socket of that name in its runtime directory. */
function checkPlace({ user }: Wish): void {
  if (!existsSync("/run/systemd/system")) {
    throw new CannotInstall("systemd does not run here: start procsupd by other means");
  }
  const runtime = process.env["XDG_RUNTIME_DIR"] ?? "";
  if (user && !existsSync(join(runtime, "systemd/private"))) {
    throw new CannotInstall("no systemd --user runs for you: log in, with XDG_RUNTIME_DIR set");
  }
  if (!user && process.getuid?.() !== 0) {
    throw new CannotInstall("this is for root: use sudo, or --user for a daemon of your own");
  }
}

/** Other characters would need quoting. */
function checkPath(path: string): void {
  if (/^[\w./@+:,=~-]+$/.test(path)) return;
  throw new CannotInstall(`${path}: a unit cannot name it plainly: move it to another folder`);
}

/** What the daemon loads that is not in its bundle: koffi, and beside it the machine code for each machine. */
function addonsOf(daemon: string): string[] {
  const koffi = dirname(findKoffi(daemon));
  const beside = join(dirname(koffi), "@koromix");
  return [...treeOf(koffi), ...(existsSync(beside) ? treeOf(beside) : [])];
}

/** A folder and all in it, links and what they lead to; pnpm makes such. */
function treeOf(folder: string): string[] {
  const all = new Set([folder]);
  for (const path of all) {
    const real = realpathSync(path);
    all.add(real);
    if (!lstatSync(real).isDirectory()) continue;
    for (const name of readdirSync(real)) all.add(join(real, name));
  }
  return [...all];
}

function findKoffi(daemon: string): string {
  try {
    return createRequire(daemon).resolve("koffi");
  } catch (cause) {
    const folder = dirname(dirname(daemon));
    throw new CannotInstall(`koffi is not installed: run npm install in ${folder}`, { cause });
  }
}

/** Whoever could change what root runs, or a folder above it, would be root. */
function checkOwners(path: string): void {
  const found = lstatSync(path);
  const { uid, mode } = found;
  const isShared = (mode & 0o022) !== 0 && (mode & 0o1000) === 0;
  if (uid !== 0 || (isShared && !found.isSymbolicLink())) {
    const fix = "install the package for all users: npm install --global procsup";
    throw new CannotInstall(`others than root can change ${path}: ${fix}`);
  }
  if (path !== "/") checkOwners(dirname(path));
}

function checkOurs(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined || (found.isFile() && read(path).startsWith(MARK))) return;
  throw new CannotInstall(`${path} was not written by procsup install: move it away first`);
}

function read(path: string): string {
  return readFileSync(path, "utf8");
}

// --- doing it ---------------------------------------------------------------------------------

function carryOut(steps: Step[], notes: string[], { dryRun }: Wish): Report {
  if (!dryRun) steps.forEach(take);
  return { steps: steps.map(tell), notes };
}

function tell(step: Step): string {
  return step.do === "run" ? step.argv.join(" ") : `${step.do} ${step.path}`;
}

function take(step: Step): void {
  if (step.do === "remove") rmSync(step.path);
  else if (step.do === "write") write(step.path, step.text);
  else execute(step.argv);
}

function write(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.new`, text, { mode: 0o644 });
  renameSync(`${path}.new`, path);
}

function execute([file = "", ...args]: string[]): void {
  try {
    execFileSync(file, args, { stdio: ["ignore", "pipe", "pipe"], encoding: "utf8" });
  } catch (cause) {
    const { stderr, message } = cause as Error & { stderr?: string };
    const said = (stderr || message).trim();
    throw new CannotInstall(`${[file, ...args].join(" ")}: ${said}`, { cause });
  }
}
