// A command's outcome: calls -> text or JSON -> exit code. Data goes to stdout, chatter and errors to
// stderr; with --json stdout holds one JSON document and nothing else, errors included.

import { type Client, connect, Refusal } from "../client.js";
import type { Address } from "../wire.js";
import { isIdPrefix, readTarget } from "./arguments.js";
import { listAll } from "./pages.js";
import { codeOf, errorJson, errorText, jsonText } from "./print.js";

/** What every command can be given. */
export type Common = { json?: boolean; socket?: string };

/** What a command has to say, and the exit code it ends with. */
type Outcome = { json: unknown; text: string; code: number };

/** Do one thing, say it, leave with its code. */
export async function say(
  options: Common,
  work: () => Promise<Outcome>,
  failureCode: (error: unknown) => number = codeOf,
): Promise<void> {
  try {
    const { json, text, code } = await work();
    process.stdout.write(options.json ? jsonText(json) : text);
    process.exitCode = code;
  } catch (error) {
    if (options.json) process.stdout.write(jsonText(errorJson(error)));
    else process.stderr.write(errorText(error));
    process.exitCode = failureCode(error);
  }
}

/** As `say`, for what needs the daemon. */
export function run(
  options: Common,
  work: (client: Client) => Promise<Outcome>,
  failureCode: (error: unknown) => number = codeOf,
): Promise<void> {
  const connected = async () => {
    const client = await connect(options.socket === undefined ? {} : { socket: options.socket });
    return work(client).finally(() => client.close());
  };
  return say(options, connected, failureCode);
}

/** One call for each target, at once; what each has to say, in order; the first failure's code. */
export function forEach<R>(
  targets: readonly string[],
  options: Common,
  act: (client: Client, target: string) => Promise<R>,
  show: (results: R[], targets: string[]) => string,
): Promise<void> {
  return run(options, async (client) => {
    const settled = await Promise.allSettled(targets.map((target) => act(client, target)));
    const failures = settled.flatMap((one) => (one.status === "rejected" ? [one.reason] : []));
    const results = settled.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
    const done = targets.filter((_, at) => settled[at]?.status === "fulfilled");
    if (!options.json) process.stderr.write(failures.map(errorText).join(""));
    const json = settled.map((one) =>
      one.status === "fulfilled" ? one.value : errorJson(one.reason),
    );
    return {
      json: json.length === 1 ? json[0] : json,
      text: results.length === 0 ? "" : show(results, done),
      code: failures.length === 0 ? 0 : codeOf(failures[0]),
    };
  });
}

/**
 * For commands that only look, the beginning of one id will do where nobody bears it as a name. Not
 * for those that act: a name mistyped, or forgotten since, must not hit a stranger.
 */
export async function findTarget(client: Client, typed: string): Promise<Address> {
  if (!isIdPrefix(typed)) return readTarget(typed);
  const known = await listAll(client, { all: true });
  if (known.some(({ name }) => name === typed)) return readTarget(typed);
  const ids = known.map((one) => one.id).filter((one) => one.startsWith(typed));
  const [id] = ids;
  if (id !== undefined && ids.length === 1) return { id };
  const many = ids.length === 0 ? "no id begins" : `${ids.length} ids begin`;
  const message = `Process not found: nobody is named ${typed}, and ${many} so`;
  throw new Refusal("process_not_found", message, id === undefined ? {} : { ids });
}
