// What the systemd scenarios stand on: test/lab, which boots the machine's own systemd in namespaces, and
// a shell in it that is given one command after the other.

import { spawn, spawnSync } from "node:child_process";
import { join, resolve } from "node:path";
import { is } from "uvu/assert";
import { type Scene, scenarioUnless } from "./scenario.js";

const root = resolve(import.meta.dirname, "../..");
const labFile = join(root, "test/lab");

/** Why there can be no lab on this machine; null when there can. */
export const noLab: string | null = whyNot();

function whyNot(): string | null {
  const { status, stdout, error } = spawnSync(labFile, ["--check"], { encoding: "utf8" });
  if (error !== undefined) return error.message;
  return status === 0 ? null : stdout.trim();
}

/** A boot and some twenty programs one after the other: seconds, but for a machine that is busy. */
const LIMIT_MS = 100_000;

/** What no command prints: then its exit code follows. */
const END = "\u0001";

/** What a command printed on both streams, and its exit code. */
type Said = { code: number; out: string };

export type Lab = {
  /** Run shell code as root. */
  sh(code: string): Promise<Said>;
  /** As `sh`; throws unless it exits with 0. Its output, trimmed. */
  ok(code: string): Promise<string>;
  /** The exit code of test/lab, once it and all that ran in it are gone. */
  close(): Promise<number | null>;
};

/** Where the lab sees the node that runs this; the project is at /opt/procsup there. */
const node = process.execPath.replace(`${root}/`, "/opt/procsup/");

/**
 * `manage USER` says whose service manager all below speaks to: root's is the system's, as from the beginning.
 * `ctl` is its systemctl, and `procsup` is called by that user; $units, $socket and $slice are where the units,
 * the socket and the cgroups lie. `as USER COMMAND...` has the environment of that user's manager.
 */
const prelude = `
PATH=$(dirname ${node}):$PATH
procsup=/opt/procsup/dist/procsup.cjs
as() {
  local user=$1 uid; shift
  [[ $user != root ]] || { "$@"; return; }
  uid=$(id -u $user)
  setpriv --reuid=$uid --regid=$uid --init-groups --inh-caps=-all env -i PATH=$PATH HOME=/home/$user \\
    USER=$user LOGNAME=$user XDG_RUNTIME_DIR=/run/user/$uid "$@"
}
manage() {
  local uid; user=$1 uid=$(id -u $1)
  if [[ $user == root ]]; then
    scope= units=/etc/systemd/system socket=/run/procsup.sock slice=/sys/fs/cgroup/system.slice
  else
    scope=--user units=/home/$user/.config/systemd/user socket=/run/user/$uid/procsup.sock
    slice=/sys/fs/cgroup/user.slice/user-$uid.slice/user@$uid.service/app.slice
    loginctl enable-linger $user; systemctl start user@$uid.service
  fi
}
manage root
ctl() { as $user systemctl $scope "$@"; }
procsup() { as $user node $procsup "$@"; }
# Whatever a scenario has left; the installation stays for the next one.
tidy() {
  systemctl stop crowd
  ctl stop procsup.socket
  rm -rf $units/procsup.service.d
  ctl daemon-reload; ctl reset-failed
}
begin() {
  if [[ -e $units/procsup.service ]]; then ctl start procsup; else procsup install $scope >/dev/null; fi
}
drop_in() {
  as $user mkdir -p $units/procsup.service.d
  printf '[Service]\\n%s\\n' "$1" >$units/procsup.service.d/test.conf
  ctl daemon-reload
}
# So many clients at a time, as its user, which ask for the status of a pid; and how they fared, once they are gone.
crowd() {
  systemd-run --quiet --unit=crowd --uid=$user --property=StandardOutput=file:/run/crowd --property=TimeoutStopSec=10 \\
    $(type -P node) /opt/procsup/test/programs/crowd.mjs $socket $1 $2
  await 'grep -qx ready /run/crowd'
}
crowd_goes() { systemctl stop crowd; grep ^{ /run/crowd || { cat /run/crowd; return 1; }; }
# Wait for a fact: look again every 100 ms, for at most 10 s.
await() { local n; for ((n = 0; n < 100; n++)); do eval "$1" && return; sleep 0.1; done; echo "not: $1"; return 1; }
show() { ctl show procsup.service --property="$1" --value; }
`;

/** Boot a lab; `close` takes it down, with all that runs in it. */
async function bootLab(): Promise<Lab> {
  const child = spawn(labFile, ["bash", "-c", "exec bash 2>&1"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exited = new Promise<number | null>((done) => child.once("close", (code) => done(code)));
  let output = "";
  let look = () => {};
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
    look();
  });
  const sh = (code: string) =>
    new Promise<Said>((done, fail) => {
      output = "";
      look = () => {
        const [out = "", status] = output.split(END);
        if (status?.endsWith("\n")) done({ code: Number(status), out });
      };
      void exited.then(() => fail(new Error(`the lab has gone: ${output}`)));
      child.stdin.write(`{ ${code}\n} </dev/null; printf '\\001%d\\n' $?\n`);
    });
  const ok = async (code: string) => {
    const said = await sh(code);
    if (said.code !== 0) throw new Error(`${code}: exit ${said.code}: ${said.out}`);
    return said.out.trim();
  };
  const close = () => {
    child.stdin.end();
    return exited;
  };
  await ok(prelude);
  return { sh, ok, close };
}

let booted: Lab | null = null;

/**
 * A scenario in a lab. One boot serves all of a file, and nothing of the system's daemon runs between two of
 * them; `theLabGoes` comes last. Skipped where there can be no lab.
 */
export function inLab(name: string, body: (lab: Lab) => Promise<void>): void {
  const underLab = async (scene: Scene) => {
    const lab = booted ?? (await bootLab());
    booted = lab;
    scene.after(async () => {
      if (booted !== null) await lab.sh("tidy");
    });
    await body(lab);
  };
  scenarioUnless(noLab, name, underLab, LIMIT_MS);
}

/** The last scenario of a file. */
export function theLabGoes(): void {
  inLab("the lab goes without a trace", async (lab) => {
    await lab.ok("sleep 1000 & setsid sleep 1000 &");
    booted = null;
    is(await lab.close(), 0);
  });
}
