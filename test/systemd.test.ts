// The daemon under a real systemd, every step through systemctl. Needs root and namespaces (test/lab).

import { equal, is, match, not } from "uvu/assert";
import type { Process } from "../client/wire.js";
import { scenario } from "./scenario.js";
import { inLab, type Lab, noLab, theLabGoes } from "./systemd.js";

scenario("the lab says whether this machine can run it", () => {
  is(noLab === null || /^\S/.test(noLab), true);
});

const dropIn = (line: string) =>
  `mkdir -p /etc/systemd/system/procsup.service.d; echo '[Service]
${line}' >/etc/systemd/system/procsup.service.d/test.conf; systemctl daemon-reload`;

/** Start a process that lives until it is ended; its pid. */
const start = async ({ ok }: Lab, ...args: string[]) => {
  const more = args.length === 0 ? "-- sleep 1000" : args.join(" ");
  return Number(await ok(`procsup start ${more}`));
};

const unitIsGone = async ({ ok, sh }: Lab) => {
  equal(await ok("show ActiveState; show Result"), "inactive\nsuccess");
  equal((await sh("ls -d /sys/fs/cgroup/system.slice/procsup.*")).code, 2);
};

inLab("install, group, status, reload and stop", async (lab) => {
  const { sh, ok } = lab;
  await ok(
    "cd /home/anna; cp -r --parents /opt/procsup/{systemd,dist/procsup{,d}.cjs} .; chown -R anna .",
  );
  const unsafe = await sh("node /home/anna/opt/procsup/dist/procsup.cjs install");
  match(unsafe.out, /others than root can change \/home\/anna\/opt\/procsup\/dist\/procsupd.cjs/);
  const plan = await ok("procsup install --dry-run");
  equal((await sh("ls /etc/systemd/system/procsup.service")).code, 2);
  is(await ok("procsup install"), plan);
  is(await ok("systemd-analyze verify procsup.service procsup.socket"), "");
  is(await ok("stat -c '%A %U %G' /run/procsup.sock"), "srw-rw---- root procsup");
  is(await ok("stat -c '%a %U' /var/lib/procsup"), "700 root");
  is(await ok("systemctl is-enabled procsup.service procsup.socket"), "enabled\nenabled");

  await ok("usermod -aG procsup anna");
  await ok("as anna $(type -P node) $procsup info --socket /run/procsup.sock");
  match(
    (await sh("as otto $(type -P node) $procsup info --socket /run/procsup.sock")).out,
    /may not use it/,
  );

  const pid = await start(
    lab,
    "--name",
    "web",
    "--output",
    "journal",
    "--",
    "sh",
    "-c",
    "'echo hello; exec sleep 1000'",
  );
  await ok("await '[[ $(show StatusText) == \"1 running\" ]]'");
  not.match(await ok(`tr '\\0' '\\n' </proc/${pid}/environ`), /NOTIFY_SOCKET|LISTEN_|WATCHDOG_/);
  match(
    await ok(`cat /proc/${pid}/cgroup`),
    /^0::\/system.slice\/procsup.service\/procsup-\w+\/p\w+$/m,
  );
  match(
    await ok("cat /proc/$(show MainPID)/cgroup"),
    /^0::\/system.slice\/procsup.service\/daemon$/m,
  );

  await ok(dropIn("Environment=PROCSUP_LOG_LEVEL=info"));
  const daemon = await ok("show MainPID");
  await ok("systemctl reload procsup; await 'journalctl -u procsup | grep -q reloaded'");
  not.match(await ok("procsup install"), /write|restart/);
  equal([await ok("show MainPID"), (await sh(`kill -0 ${pid}`)).code], [daemon, 0]);
  await ok("test -e /etc/systemd/system/procsup.service.d/test.conf");

  await ok("systemctl stop procsup.socket");
  is((await sh(`kill -0 ${pid}`)).code, 1);
  await unitIsGone(lab);
  await ok("journalctl --sync");
  const messages = (await ok("journalctl -o cat PROCSUP_NAME=web")).split("\n");
  equal(
    messages.map((line) => line.split(" ")[0]),
    ["spawned", "audit", "terminated"],
  );
  is(await ok(`journalctl -o cat -t web _PID=${pid}`), "hello");
});

inLab("what runs outlives a restart, a crash and a hung main loop", async (lab) => {
  const { sh, ok } = lab;
  await ok(dropIn("WatchdogSec=2"));
  await ok("begin");
  const pids = [await start(lab), await start(lab, "--", "setsid", "sleep", "1000")];
  const live = `kill -0 ${pids.join(" ")}`;
  const lose = async (how: string) => {
    const before = await ok("show MainPID");
    await ok(how);
    await ok("procsup info"); // connects while no daemon lives, and is answered
    not.equal(await ok("show MainPID"), before);
    is((await sh(live)).code, 0);
  };
  for (let times = 0; times < 2; times++) await lose("systemctl restart procsup");
  await lose("systemctl kill --kill-whom=main --signal=KILL procsup");
  await lose("kill -STOP $(show MainPID)");
  match(await ok("journalctl -u procsup"), /Failed with result 'watchdog'/);
  is(await ok("show ActiveState"), "active");

  await ok("systemctl stop procsup.socket");
  is((await sh(live)).code, 1);
  await unitIsGone(lab);
});

/** Commands that end by TERM with 7; many spawns in one connection. */
const spawnMany = (count: number) => `
node -e '
const net = require("net"), script = "trap \\"kill $!; exit 7\\" TERM; sleep 1000 & wait";
const calls = Array.from({ length: ${count} }, (_, id) =>
  ({ jsonrpc: "2.0", id, method: "spawn", params: { command: ["sh", "-c", script] } }));
const socket = net.connect("/run/procsup.sock", () => socket.write(JSON.stringify(calls) + "\\n"));
let text = "";
socket.on("data", (chunk) => {
  text += chunk;
  if (!text.endsWith("\\n")) return;
  console.log(JSON.parse(text).map((one) => one.result.pid).join(" "));
  socket.destroy();
});'`;

inLab("fifty processes are adopted, and ends that nobody saw are told", async (lab) => {
  const { sh, ok } = lab;
  await ok(dropIn("RestartSec=3"));
  await ok("begin");
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
  await ok("systemctl kill --kill-whom=main --signal=KILL procsup");
  await ok("await '[[ $(show SubState) == auto-restart ]]'");
  await ok(`kill -TERM ${coded}; kill -SEGV ${killed}`);
  await ok(`await '[[ ! -e /proc/${coded} && ! -e /proc/${killed} ]]'`);
  await ok("await '[[ $(show SubState) == running ]]'");
  equal(await ended(coded), ["exited", "code", 7, null]);
  equal(await ended(killed), ["exited", "signal", null, "SIGSEGV"]);
  equal(await list(), rest);
  for (let times = 0; times < 10; times++) {
    const daemon = await ok("show MainPID");
    await ok("systemctl restart procsup");
    not.equal(await ok("show MainPID"), daemon);
    equal(await list(), rest, `restart ${times}`);
  }
  is((await sh(`kill -0 ${rest.join(" ")}`)).code, 0);
  await ok("systemctl stop procsup.socket");
  is((await sh(`kill -0 ${rest.join(" ")} 2>/dev/null`)).code, 1);
  await unitIsGone(lab);
});

inLab("a stop ends trees that ignore it, have escaped or stand still, in its time", async (lab) => {
  const { ok, sh } = lab;
  await ok(dropIn("TimeoutStopSec=4"));
  await ok("begin");
  const program = (name: string) => `/opt/procsup/test/programs/${name}`;
  await start(lab, "--grace", "1h", "--", program("ignores-term.sh"));
  await start(lab, "--", program("daemonizes.sh"));
  await start(lab, "--", program("stops-itself.sh"));
  await start(
    lab,
    "--output",
    "null",
    "--",
    "sh",
    "-c",
    "'trap \"echo ran >/run/handler; exit\" TERM; while :; do sleep 0.01; done'",
  );
  await ok(
    "await '[[ $(cat /sys/fs/cgroup/system.slice/procsup.service/procsup-*/*/cgroup.procs | wc -l) -ge 5 ]]'",
  );
  await ok("systemctl stop procsup.socket");
  is(await ok("cat /run/handler"), "ran");
  is((await sh("pgrep -f '/test/programs/|sleep'")).out, "");
  await unitIsGone(lab);
});

inLab("a daemon that cannot start says why, and what ran can still be ended", async (lab) => {
  const { ok, sh } = lab;
  await ok("begin");
  const pid = await start(lab);
  await ok(dropIn("Environment=PROCSUP_LOG_LEVEL=loud"));
  is((await sh("systemctl restart procsup")).code, 1);
  match((await sh("systemctl status procsup")).out, /Status: "cannot start: settings: logLevel/);
  await ok("await '[[ $(show NRestarts) -ge 1 ]]'");
  is((await sh(`kill -0 ${pid}`)).code, 0);
  await ok("systemctl stop procsup.socket");
  is((await sh(`kill -0 ${pid}`)).code, 1);
});

inLab("uninstall leaves nothing but what is the administrator's", async (lab) => {
  const { sh, ok } = lab;
  await ok(dropIn("WatchdogSec=20"));
  await ok("begin; procsup start -- sleep 1000");
  await ok("procsup uninstall");
  is((await sh("pgrep sleep")).out, "");
  await unitIsGone(lab);
  equal(
    (await sh("ls /run/procsup.sock /etc/*/procsup.conf /etc/systemd/system/procsup.service")).code,
    2,
  );
  await ok("test -e /etc/systemd/system/procsup.service.d/test.conf");
  await ok("echo mine >/etc/systemd/system/procsup.service");
  match((await sh("procsup install")).out, /procsup.service was not written by procsup install/);
  is(await ok("cat /etc/systemd/system/procsup.service"), "mine");
});

theLabGoes();
