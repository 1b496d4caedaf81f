// A JSON-RPC client that is not ours (jayson, which shares no code with us) completes the contract over
// both doors.

import { createRequire } from "node:module";
import { equal, is, ok } from "uvu/assert";
import * as v from "valibot";
import { kinds, type Method, methods } from "../client/wire.js";
import { startDaemon } from "./daemon.js";
import { scenario, until } from "./scenario.js";

type Response = { result?: unknown; error?: { code: number; data?: { kind?: string } } };

type Stranger = {
  request(method: string, params: object, done: (error: unknown, response: Response) => void): void;
  /** The request alone, to be put into a batch. */
  request(method: string, params: object): object;
  request(batch: object[], done: (error: unknown, responses: Response[]) => void): void;
};

/** Its own type declarations do not pass a strict compiler. */
const { client: clients } = createRequire(import.meta.url)("jayson") as {
  client: {
    tcp(options: { path: string }): Stranger;
    http(options: { socketPath: string; path: string }): Stranger;
  };
};

const doors = {
  line: (socket: string) => clients.tcp({ path: socket }),
  http: (socket: string) => clients.http({ socketPath: socket, path: "/rpc" }),
};

for (const [door, open] of Object.entries(doors)) {
  scenario(`${door}: a client that is not ours completes the contract`, async (scene) => {
    const stranger = open((await startDaemon(scene)).socket);
    const tried = new Set<Method>();
    const ask = (method: Method, params: object = {}) =>
      new Promise<Response>((done, fail) => {
        tried.add(method);
        stranger.request(method, params, (error, response) => {
          if (error) fail(error);
          else done(response);
        });
      });
    /** The result, and that it is of the contract's shape. */
    const get = async (method: Method, params: object = {}) => {
      const { result, error } = await ask(method, params);
      is(error, undefined, `${method}: ${JSON.stringify(error)}`);
      ok(v.is(methods[method].result, result), `${method}: ${JSON.stringify(result)}`);
      return result as Record<string, unknown>;
    };
    const say = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    const { pid } = await get("spawn", { command: ["sh", "-c", say], name: "guest" });
    await until("ready", async () => (await get("logs", { pid }))["text"] === "ready\n");
    ok(((await get("list"))["processes"] as unknown[]).length === 1);
    ok(((await get("status", { name: "guest" }))["members"] as unknown[]).length >= 1);
    is((await get("usage", { pid }))["pid"], pid);
    await get("pause", { pid });
    await get("resume", { pid });
    equal(await get("signal", { pid, signal: "SIGCONT" }), { signaled: 1 });
    is((await get("wait", { pid, timeoutMs: 0 }))["ended"], false);
    equal(await get("strays"), { strays: [], ended: 0 });
    await get("info");
    await get("rpc.discover");
    const subscribed = await ask("subscribe", { pid });
    is(subscribed.error?.code, door === "line" ? undefined : kinds.invalid_request.code);
    // Of another connection, which has gone: jayson opens one for each call.
    equal(await get("unsubscribe", { subscription: "s1" }), { unsubscribed: false });
    const { exitCode, forced } = await get("terminate", { pid });
    equal([exitCode, forced], [3, false]);
    const again = await ask("terminate", { pid });
    equal([again.error?.code, again.error?.data?.kind], [-32002, "already_terminated"]);
    equal([...tried].sort(), Object.keys(methods).sort());

    const batch = [stranger.request("info", {}), stranger.request("status", { pid: 1 })];
    const answers = await new Promise<Response[]>((done, fail) => {
      stranger.request(batch, (error, responses) => {
        if (error) fail(error);
        else done(responses);
      });
    });
    equal(
      answers.map(({ error }) => error?.code),
      [undefined, -32001],
    );
  });
}
