// Rights that the matrix of access.test does not show: groups, users without an account, everybody else.

import { spawnSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { equal, is, ok } from "uvu/assert";
import { Refusal } from "../client/wire.js";
import { admit } from "../daemon/processes/access.js";
import { call, openRaw } from "./daemon.js";
import { connectingAs, groupOf, overLines, people, startForAll } from "./people.js";
import { scenario, scenarioUnless, unlessRoot, until } from "./scenario.js";

const needsRoot = unlessRoot("to call as somebody else");

scenarioUnless(
  needsRoot,
  "after looking with a caller's eyes the daemon is itself again",
  async (scene) => {
    const daemon = await startForAll(scene, "group");
    const owner = await overLines(scene, daemon, "owner");
    ok((await owner.ask("spawn", { command: ["true"] })).result);
    const linesOf = (path: string) => readFileSync(path, "utf8").match(/^(Uid|Gid|Groups):.*$/gm);
    equal(linesOf(`/proc/${daemon.pid}/status`), linesOf("/proc/self/status"));
  },
);

scenarioUnless(
  needsRoot,
  "who has the admin group beside their own controls all",
  async (scene) => {
    const daemon = await startForAll(scene, "group");
    const { pid } = await (await daemon.connect()).spawn({ command: ["sleep", "1000"] });
    const admins = Number(groupOf(people.admin));
    const admin = await connectingAs("member", () => openRaw(scene, daemon.socket), admins);
    ok((await admin.ask(call("terminate", { pid }))).result);
  },
);

scenario("a daemon of a user's serves that user and root only", () => {
  const outcomeOf = (uid: number) => {
    const person = { uid, gid: uid, groups: [uid], name: null };
    const said = admit(person, 1_000, { adminGid: 1_001, users: {} });
    return said instanceof Refusal ? said.kind : "in";
  };
  equal([0, 1_000].map(outcomeOf), ["in", "in"]);
  equal([1_001, 1_002].map(outcomeOf), ["permission_denied", "permission_denied"]);
});

scenarioUnless(
  needsRoot,
  "what is set for everybody else is theirs, and never root's",
  async (scene) => {
    const daemon = await startForAll(scene, "group", { "*": { barred: true } });
    const member = await connectingAs("member", () => openRaw(scene, daemon.socket));
    is((await member.next()).error?.data?.["kind"], "permission_denied");
    ok((await (await daemon.raw()).ask(call("info"))).result);
  },
);

scenarioUnless(
  needsRoot,
  "a subscriber to all hears of nobody else's, and a denial is on record",
  async (scene) => {
    const daemon = await startForAll(scene, "group");
    const member = await connectingAs("member", () => openRaw(scene, daemon.socket));
    ok((await member.ask(call("subscribe"))).result);
    const root = await daemon.connect();
    const { id, pid } = await root.spawn({ command: ["true"] });
    await root.wait({ id });
    // An event would have come first.
    is((await member.ask(call("status", { pid }))).error?.data?.["kind"], "permission_denied");
    const denial = new RegExp(
      `"callerName":"${people.member}".*"method":"status".*"outcome":"permission_denied"`,
    );
    await until("it is on record", () => daemon.log.some((line) => denial.test(line)));
  },
);

const spawnByHand = `
  const socket = require("net").connect(process.argv[1]);
  socket.write('{"jsonrpc":"2.0","id":1,"method":"spawn","params":{"command":["sleep","1000"]}}\\n');
  socket.once("data", (line) => { console.log(String(line)); socket.destroy(); });
`;

scenarioUnless(
  needsRoot,
  "who has no account runs as their number, and as nobody else",
  async (scene) => {
    const daemon = await startForAll(scene, "group");
    const nobodys = { uid: 54_321, gid: 54_321, cwd: "/", encoding: "utf8" } as const;
    const { stdout } = spawnSync(process.execPath, ["-e", spawnByHand, daemon.socket], nobodys);
    const { result } = JSON.parse(stdout) as { result: { pid: number; user: string } };
    is(result.user, "54321");
    await until("it is theirs", () => statSync(`/proc/${result.pid}`).uid === 54_321);
  },
);
