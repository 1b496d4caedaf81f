// The daemon under a real systemd, every step through systemctl. Needs root and namespaces (test/lab).

import { equal, is, match, not } from "uvu/assert";
import { scenario } from "./scenario.js";
import { inLab, noLab, theLabGoes } from "./systemd.js";
import { playVerbs, unitIsGone } from "./verbs.js";

scenario("the lab says whether this machine can run it", () => {
  is(noLab === null || /^\S/.test(noLab), true);
});

inLab("install, group, status, reload and stop", async (lab) => {
  const { sh, ok } = lab;
  await ok(
    "cd /home/anna; cp -r --parents /opt/procsup/{systemd,dist/procsup{,d}.cjs} .; chown -R anna .",
  );
  const unsafe = await sh("node /home/anna/opt/procsup/dist/procsup.cjs install");
  match(unsafe.out, /others than root can change \/home\/anna\/opt\/procsup\/dist\/procsupd.cjs/);
  await ok(
    "cd /srv; cp -r --parents /opt/procsup/{systemd,dist/procsup{,d}.cjs,node_modules/{,@koromix/}koffi*} .",
  );
  await ok("chown anna $(echo /srv/opt/procsup/node_modules/@koromix/*/package.json)");
  const addon = await sh("node /srv/opt/procsup/dist/procsup.cjs install");
  match(addon.out, /others than root can change \/srv\/opt\/procsup\/node_modules\/@koromix/);
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

  const hello = "-- sh -c 'echo hello; exec sleep 1000'";
  const pid = await ok(`procsup start --name web --output journal ${hello}`);
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

  await ok("drop_in Environment=PROCSUP_LOG_LEVEL=info");
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

playVerbs("root");

inLab("uninstall leaves nothing but what is the administrator's", async (lab) => {
  const { sh, ok } = lab;
  await ok("drop_in WatchdogSec=20");
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
