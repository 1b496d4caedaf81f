// Preloaded into a daemon, it is its clock: the machine's, set off by the milliseconds in the file $STEP_MS_FILE.
import { readFileSync } from "node:fs";

const Machine = Date;
const now = () => Machine.now() + Number(readFileSync(process.env.STEP_MS_FILE, "utf8"));

globalThis.Date = class extends Machine {
  constructor(...given) {
    super(...(given.length === 0 ? [now()] : given));
  }
  static now() {
    return now();
  }
};
