// Framing: a stream of bytes cut into lines, wherever it is split.

import { equal } from "uvu/assert";
import { createLineReader, type Line } from "../client/lines.js";
import { scenario } from "./scenario.js";

function linesOf(chunks: Buffer[], maxBytes = 100): Line[] {
  const reader = createLineReader(maxBytes);
  const lines: Line[] = [];
  for (const chunk of chunks) {
    reader.push(chunk);
    for (let line = reader.next(); line.at !== "more"; line = reader.next()) {
      lines.push(line);
      if (line.at === "tooLong") return lines;
    }
  }
  return lines;
}

const line = (text: string): Line => ({ at: "line", text });
const stream = Buffer.from('{"a":1}\n\n"é€😀"\nlast\n');
const whole = [line('{"a":1}'), line(""), line('"é€😀"'), line("last")];

scenario("lines come out the same wherever the stream is split", () => {
  for (let first = 0; first <= stream.length; first++) {
    for (let second = first; second <= stream.length; second++) {
      const chunks = [
        stream.subarray(0, first),
        stream.subarray(first, second),
        stream.subarray(second),
      ];
      equal(linesOf(chunks), whole);
    }
  }
  equal(linesOf([...stream].map((byte) => Buffer.from([byte]))), whole);
});

scenario("a reader that stops between two lines of one chunk finds the second one later", () => {
  const reader = createLineReader(100);
  reader.push(Buffer.from("one\ntwo\nth"));
  equal(reader.next(), line("one"));
  reader.push(Buffer.from("ree\n"));
  equal(
    [reader.next(), reader.next(), reader.next()],
    [line("two"), line("three"), { at: "more" }],
  );
  equal(reader.unfinished(), false);
});

scenario("a line may be as long as the cap and no longer, however it arrives", () => {
  const longest = "x".repeat(100);
  equal(linesOf([Buffer.from(`${longest}\n`)]), [line(longest)]);
  equal(linesOf([Buffer.from(longest), Buffer.from("\n")]), [line(longest)]);
  equal(linesOf([Buffer.from(`${longest}y\n`)]), [{ at: "tooLong" }]);
  equal(linesOf([Buffer.from(longest), Buffer.from("y")]), [{ at: "tooLong" }]);
});

scenario("bytes that are no UTF-8 are said to be so and do not spoil the next line", () => {
  equal(linesOf([Buffer.from([0x22, 0xff, 0x22, 10]), Buffer.from("ok\n")]), [
    { at: "notUtf8" },
    line("ok"),
  ]);
});

scenario("a mebibyte in single bytes is held in about a mebibyte", () => {
  const reader = createLineReader(1 << 20);
  const before = process.memoryUsage().arrayBuffers;
  const byte = Buffer.from("x");
  for (let count = 0; count < 1 << 20; count++) {
    reader.push(byte);
    reader.next();
  }
  equal(process.memoryUsage().arrayBuffers - before < 8 << 20, true);
});
