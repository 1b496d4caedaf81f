// Without cgroups and without room for tags: what is left to know members by, one sign at a time.

import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, is } from "uvu/assert";
import { holdFound } from "../daemon/tree/found.js";
import { see } from "../daemon/tree/signs.js";
import { testProgram } from "./commands.js";
import { startDaemon } from "./daemon.js";
import { isAlive, type Scene, scenario, until } from "./scenario.js";

/** A daemon whose hard limit leaves no room for tags. */
async function startUntagged(scene: Scene) {
  const prefix = ["prlimit", "--locks=0:0"];
  const daemon = await startDaemon(scene, { prefix, args: ["--containment", "group"] });
  const client = await daemon.connect();
  is((await client.info({})).kernel["tags"], false);
  return client;
}

for (const [sign, command] of [
  ["mark", testProgram("daemonizes.sh")],
  ["session", ["sh", "-c", "(env -i sleep 1000 &); exec sleep 1000"]],
  ["descent", ["sh", "-c", "env -i setsid sleep 1000 & wait"]],
] as const) {
  scenario(`where no tag can be had members are known by their ${sign}`, async (scene) => {
    const client = await startUntagged(scene);
    const { id } = await client.spawn({ command: [...command] });
    // And nobody else: whoever was on the way between them has gone.
    const stands = /^sleep \d+$|& wait$/;
    const pids = await until("both are there", async () => {
      const { members } = await client.status({ id });
      const isAll = members.length === 2 && members.every(({ command: one }) => stands.test(one));
      return isAll && members.map(({ pid }) => pid);
    });
    is((await client.terminate({ id })).ended, 2);
    equal(pids.map(isAlive), [false, false]);
  });
}

scenario("who was known once is a member, whatever it sheds", async (scene) => {
  const client = await startUntagged(scene);
  const [shed, leave] = ["shed", "leave"].map((name) => join(scene.folder, name));
  const until_ = (file: string | undefined) => `until [ -e ${file} ]; do /bin/sleep 0.01; done`;
  const child = `${until_(shed)}; exec /bin/sleep 1000`;
  const script = `env -i setsid sh -c '${child}' & ${until_(leave)}; exit 0`;
  const { id } = await client.spawn({ command: ["sh", "-c", script], strays: "keep" });
  const commands = async () => {
    const { members } = await client.status({ id });
    return members.map(({ command }) => command).filter((one) => one !== "/bin/sleep 0.01");
  };
  await until("both are there", async () => (await commands()).length === 2);
  writeFileSync(shed ?? "", "");
  await until("it has shed all", async () => (await commands()).includes("/bin/sleep 1000"));
  writeFileSync(leave ?? "", "");
  await until("its parent is gone", async () => (await client.status({ id })).exitCode === 0);
  equal(await commands(), ["/bin/sleep 1000"]);
  is((await client.terminate({ id })).ended, 1);
});

scenario("one search that finds nobody proves nothing", async (scene) => {
  const child = spawn("sleep", ["100"], { stdio: "ignore" });
  scene.after(() => void child.kill("SIGKILL"));
  const seen = await until("it can be seen", () => see(child.pid ?? 0));
  let searches = 0;
  const find = async () => (searches++ === 0 ? [] : [seen]);
  is(await holdFound({ find, leader: null, tag: null, uid: null }).isEmpty(), false);
});
