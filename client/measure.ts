// How much is in one JSON text, counted before it is parsed, or sent.

import { limits, Refusal } from "./refusal.js";

const limitTexts = { nesting: "nested arrays and objects", values: "values" } as const;

/**
 * The refusal of a JSON text with more in it than `limits` allows; null for all others. A mebibyte of `[` keeps
 * JSON.parse busy for 0.4 s and one of `{},` for 0.2 s; to count them takes about 10 ms, and less where strings
 * are long.
 */
export function passedLimit(text: string): Refusal | null {
  const limit = nameOfPassed(text);
  if (limit === null) return null;
  const message = `The JSON text passes the limit of ${limits[limit]} ${limitTexts[limit]}`;
  return new Refusal("invalid_request", message, { limit });
}

/** Counts are true only as far as the text is JSON, and JSON.parse goes no further. */
function nameOfPassed(text: string): keyof typeof limitTexts | null {
  // What has two brackets a level is too short to pass either.
  if (text.length <= 2 * limits.nesting) return null;
  let depth = 0;
  let values = 1;
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case '"':
        at = endOfString(text, at);
        break;
      case "[":
      case "{":
        depth += 1;
        values += 1;
        break;
      case "]":
      case "}":
        depth -= 1;
        break;
      case ",":
        values += 1;
        break;
    }
    if (depth > limits.nesting) return "nesting";
    if (values > limits.values) return "values";
  }
  return null;
}

/** The position of the closing quote: the first one behind an even number of backslashes. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let before = end - 1;
    while (text[before] === "\\") before -= 1;
    if ((end - before) % 2 === 1) return end;
  }
  return text.length;
}
