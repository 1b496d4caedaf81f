// What needs no unit of root's: the daemon under a user's own manager, and the descriptor store. In test/lab.

import { is, match } from "uvu/assert";
import { scenario } from "./scenario.js";
import { inLab, noLab, theLabGoes } from "./systemd.js";
import { playVerbs } from "./verbs.js";

scenario("a lab is possible, or there is a reason", () => {
  is(noLab === null || /^\S/.test(noLab), true);
});

inLab("a pidfd in the store outlives the daemon and the process it stands for", async (lab) => {
  const { ok } = lab;
  const status = (text: string) =>
    ok(`await '[[ $(systemctl show keeper -p StatusText --value) == "${text}" ]]'`);
  const properties = "-p Type=notify -p FileDescriptorStoreMax=4 -p Restart=on-failure";
  const program = "/opt/procsup/test/programs/stores-descriptor.mjs";
  await ok(`systemd-run --quiet --unit=keeper ${properties} $(type -P node) ${program}`);
  await status("stored true");
  await ok("systemctl kill --kill-whom=main --signal=KILL keeper");
  await status("found anon_inode:[pidfd]");
  is(await ok("await '[[ $(systemctl show keeper -p NFileDescriptorStore --value) == 0 ]]'"), "");
  await ok("systemctl stop keeper");
});

inLab("a user's own manager, without root", async ({ ok, sh }) => {
  await ok("manage anna");
  match((await sh("procsup install")).out, /this is for root/);
  match(
    (await sh("as otto $(type -P node) $procsup install --user")).out,
    /no systemd --user runs/,
  );
  await ok("procsup install --user");
  is(await ok("as anna systemd-analyze --user verify procsup.service procsup.socket"), "");
  const pid = await ok("procsup start -- sleep 1000");
  const room = "user@.*/procsup.service/procsup-\\w+/p\\w+$";
  await ok(`await "grep -qP '${room}' /proc/${pid}/cgroup"`); // it may be on its way in yet
  await ok("procsup uninstall --user");
  is((await sh(`kill -0 ${pid}`)).code, 1);
  is(await ok("ls $units"), "");
});

playVerbs("anna");

theLabGoes();
