// The other end of `startProgram`: a program answers the questions that come over its channel, and ends
// with it. And how each of them starts a command.

import { type ChildProcess, spawn } from "node:child_process";

/** Answer each question with what `answer` makes of it; `end` is called when the channel closes. */
export function answerQuestions<Question, Answer>(
  answer: (question: Question) => Promise<Answer>,
  end: () => void = () => {},
): void {
  process.on("message", (question) => {
    // Only scene.ts writes to this channel, typed by the program's own file.
    answer(question as Question).then(
      (result) => process.send?.(result),
      (error: unknown) => {
        console.error(error);
        process.exit(1);
      },
    );
  });
  process.on("disconnect", () => {
    end();
    process.exit(0);
  });
}

/** Resolves after `ms`. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export type Started = { child: ChildProcess; pid: number };

/** As the daemon does: in a session of its own. */
export function start([file = "", ...args]: readonly string[]): Started {
  const child = spawn(file, args, { detached: true, stdio: "ignore" });
  if (child.pid === undefined) throw new Error(`cannot spawn ${file}`);
  return { child, pid: child.pid };
}

/** Kill its group, unless it has ended already. */
export function killStarted({ child, pid }: Started): void {
  if (child.exitCode === null && child.signalCode === null) process.kill(-pid, "SIGKILL");
}
