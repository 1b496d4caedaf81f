// The other end of `startProgram`: a program answers the questions that come over its channel, and ends
// with it.

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
