// What systemctl's verbs, crashes and hangs do to a daemon and its processes: the same steps in the system's
// manager and, unprivileged, in a user's own.

import { equal, is, match, not } from "uvu/assert";
import type { Process } from "../client/wire.js";
import { inLab, type Lab } from "./systemd.js";

/** A daemon of that user's manager, with a cgroup for each process. */
const begin = async ({ ok }: Lab) => {
  await ok("begin");
  is(await ok("stat -c %U /proc/$(show MainPID)"), await ok("echo $user"));
  match(await ok("procsup info"), /^containment +cgroup$/m);
};

/** Start a process that lives until it is ended; its pid. */
const start = async ({ ok }: Lab, command = "-- sleep 1000") =>
  Number(await ok(`procsup start ${command}`));

export const unitIsGone = async ({ ok, sh }: Lab) => {
  equal(await ok("show ActiveState; show Result"), "inactive\nsuccess");
  equal((await sh("ls -d $slice/procsup.*")).code, 2);
};

const outlives = async (lab: Lab) => {
  const { sh, ok } = lab;
  await ok("drop_in WatchdogSec=2");
  await begin(lab);
  const pids = [await start(lab), await start(lab, "-- setsid sleep 1000")];
  const live = `kill -0 ${pids.join(" ")}`;
  const lose = async (how: string) => {
    const before = await ok("show MainPID");
    await ok(how);
    await ok("procsup info"); // connects while no daemon lives, and is answered
    not.equal(await ok("show MainPID"), before);
    is((await sh(live)).code, 0);
  };
  await lose("ctl restart procsup");
  await lose("ctl kill --kill-whom=main --signal=KILL procsup");
  await lose("kill -STOP $(show MainPID)");
  match(await ok("journalctl -o cat"), /^procsup.service: Failed with result 'watchdog'/m);
  is(await ok("show ActiveState"), "active");

  await ok("ctl stop procsup.socket");
  is((await sh(live)).code, 1);
  await unitIsGone(lab);
};

/** Commands that end by TERM with 7; many spawns in one connection. */
const spawnMany = (count: number) => `
as $user node -e '
const net = require("net"), script = "trap \\"kill $!; exit 7\\" TERM; sleep 1000 & wait";
const calls = Array.from({ length: ${count} }, (_, id) =>
  ({ jsonrpc: "2.0", id, method: "spawn", params: { command: ["sh", "-c", script] } }));
const socket = net.connect(process.argv[1], () => socket.write(JSON.stringify(calls) + "\\n"));
let text = "";
socket.on("data", (chunk) => {
  text += chunk;
  if (!text.endsWith("\\n")) return;
  console.log(JSON.parse(text).map((one) => one.result.pid).join(" "));
  socket.destroy();
});' $socket`;

/** Of what test/programs/crowd.mjs has counted. */
type Counts = { between: number; unanswered: number; refused: string[] };

const CLIENTS = 50;

const adopts = async (lab: Lab) => {
  const { sh, ok } = lab;
  await ok("drop_in RestartSec=2");
  await begin(lab);
  const all = (await ok(spawnMany(50))).split(" ").map(Number);
  const [coded, killed, ...rest] = all;
  const list = async () => {
    const { processes } = JSON.parse(await ok("procsup list --json")) as { processes: Process[] };
    return processes.map(({ pid }) => pid);
  };
  const ended = async (pid: number | undefined) => {
    const said = await sh(`procsup status --json ${pid}`);
    const { status, exit, exitCode, signal } = JSON.parse(said.out) as Process;
    return [status, exit, exitCode, signal];
  };
  equal([rest.length, await list()], [48, all]);
  await ok(`crowd ${CLIENTS} ${rest[0]}`);
  await ok("ctl kill --kill-whom=main --signal=KILL procsup");
  await ok("await '[[ $(show SubState) == auto-restart ]]'");
  await ok(`kill -TERM ${coded}; kill -SEGV ${killed}`);
  await ok(`await '[[ ! -e /proc/${coded} && ! -e /proc/${killed} ]]'`);
  await ok("await '[[ $(show SubState) == running ]]'");
  equal(await ended(coded), ["exited", "code", 7, null]);
  equal(await ended(killed), ["exited", "signal", null, "SIGSEGV"]);
  equal(await list(), rest);
  for (let times = 0; times < 10; times++) {
    const daemon = await ok("show MainPID");
    await ok("ctl restart procsup");
    not.equal(await ok("show MainPID"), daemon);
    equal(await list(), rest, `restart ${times}`);
  }
  is((await sh(`kill -0 ${rest.join(" ")}`)).code, 0);

  const counts = JSON.parse(await ok("crowd_goes")) as Counts;
  equal([counts.refused, counts.unanswered], [[], 0]);
  is(counts.between >= CLIENTS, true, `only ${counts.between} connected between two daemons`);

  await ok("ctl stop procsup.socket");
  is((await sh(`kill -0 ${rest.join(" ")} 2>/dev/null`)).code, 1);
  await unitIsGone(lab);
};

const stops = async (lab: Lab) => {
  const { ok, sh } = lab;
  await ok("drop_in TimeoutStopSec=4");
  await begin(lab);
  const programs = "/opt/procsup/test/programs";
  /** Once it says that it stands: a TERM before its trap is set would be its end. */
  const stand = async (command: string) => {
    const pid = await start(lab, command);
    await ok(`await 'procsup logs ${pid} | grep -qx ready'`);
    return pid;
  };
  await stand(`--grace 1h -- ${programs}/ignores-term.sh`);
  await stand(`-- ${programs}/daemonizes.sh`);
  await stand(`-- ${programs}/slow-handler.sh /tmp/slow`);
  const stopped = await stand(`-- ${programs}/stops-itself.sh /tmp/stopped`);
  await ok(`await 'grep -q "^State:.T" /proc/${stopped}/status'`);
  await ok("ctl stop procsup.socket");
  is(await ok("cat /tmp/slow /tmp/stopped"), "finished\nhandled");
  is((await sh("pgrep -f '/test/programs/|sleep'")).out, "");
  await unitIsGone(lab);
};

/** Asks the manager only once it may. */
const slowSystemctl = `
mkdir -p /tmp/later; rm -f /tmp/later/go
printf '#!/bin/sh\\nuntil [ -e /tmp/later/go ]; do sleep 0.05; done\\nexec /usr/bin/systemctl "$@"\\n' >/tmp/later/systemctl
chmod +x /tmp/later/systemctl
drop_in $'TimeoutStopSec=30d\\nEnvironment=PATH=/tmp/later:/usr/bin:/bin'
`;

const unhurried = async (lab: Lab) => {
  const { ok } = lab;
  await ok(slowSystemctl);
  await begin(lab);
  const pid = await start(lab, "-- /opt/procsup/test/programs/slow-handler.sh /tmp/handled");
  await ok(`await 'procsup logs ${pid} | grep -qx ready'`);
  const daemon = await ok("show MainPID");
  const says = (word: string) => ok(`await 'journalctl -o cat _PID=${daemon} | grep -q ${word}'`);
  await ok("ctl restart --no-block procsup");
  await says("stopping");
  await ok(`kill -TERM ${daemon}`);
  await says("forcing");
  await ok("touch /tmp/later/go");
  await ok(`await '[[ $(show MainPID) != ${daemon} && $(show ActiveState) == active ]]'`);
  await ok(`kill -0 ${pid}`);
  await ok("ctl stop procsup.socket");
  is(await ok("cat /tmp/handled"), "finished");
  await unitIsGone(lab);
};

const cannotStart = async (lab: Lab) => {
  const { ok, sh } = lab;
  await begin(lab);
  const pid = await start(lab);
  await ok("drop_in Environment=PROCSUP_LOG_LEVEL=loud");
  is((await sh("ctl restart procsup")).code, 1);
  match((await sh("ctl status procsup")).out, /Status: "cannot start: settings: logLevel/);
  await ok("await '[[ $(show NRestarts) -ge 1 ]]'");
  is((await sh(`kill -0 ${pid}`)).code, 0);
  await ok("ctl stop procsup.socket");
  is((await sh(`kill -0 ${pid}`)).code, 1);
};

const verbs: Record<string, (lab: Lab) => Promise<void>> = {
  "what runs outlives a restart, a crash and a hung main loop": outlives,
  "fifty processes are adopted, ends that nobody saw are told, and no client is refused": adopts,
  "a stop ends trees that ignore it, have escaped or stand still, in its time": stops,
  "a restart kills nobody, whoever is impatient, nor does a stop that may take a month": unhurried,
  "a daemon that cannot start says why, and what ran can still be ended": cannotStart,
};

/** A scenario for each, in the service manager of `user`: root's is the system's. */
export function playVerbs(user: "root" | "anna"): void {
  for (const [sentence, play] of Object.entries(verbs)) {
    inLab(`${user}'s manager: ${sentence}`, async (lab) => {
      await lab.ok(`manage ${user}`);
      await play(lab);
    });
  }
}
