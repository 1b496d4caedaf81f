// The journal: an append-only file from which another daemon learns what this one knew, wherever this
// one was killed. It owns the file and its faults (a torn end, a full disk, a removed folder); what
// lines say is told in records.ts.

import {
  closeSync,
  constants,
  copyFileSync,
  fdatasync,
  fstatSync,
  fsync,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  writeSync,
} from "node:fs";
import { open } from "node:fs/promises";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { CannotStart } from "../runtime/claim.js";
import type { Log } from "../runtime/log.js";
import { createSlices } from "../runtime/slices.js";
import {
  type Bad,
  encode,
  fold,
  header,
  type Line,
  type Recorded,
  UnknownVersion,
} from "./records.js";

/** A smaller journal is not worth tidying up. */
const COMPACT_BYTES = 1024 * 1024;
/** A crash of the machine costs what was written in this time; one of the daemon costs nothing. */
const SYNC_MS = 500;
/** How soon a journal that could not be written is tried again. */
const RETRY_MS = 1_000;
const CHUNK_CHARS = 64 * 1024;

/** What an earlier daemon has left. */
export type Read = {
  readonly recorded: Map<string, Recorded>;
  readonly bad: readonly Bad[];
  /** Up to the end of the last whole line. */
  readonly bytes: number;
};

/**
 * Read the journal at `path`; a missing one is empty. A torn last line, which a crash leaves, is
 * dropped; any other bad one is named. Throws CannotStart when it cannot be read, or is newer.
 */
export function readJournal(path: string): Read {
  const content = readOrEmpty(path);
  const bytes = content.lastIndexOf("\n") + 1;
  try {
    return { ...fold(linesOf(content)), bytes };
  } catch (cause) {
    if (!(cause instanceof UnknownVersion)) throw cause;
    const fix = "start the procsup that wrote it, or choose another directory with --state";
    throw new CannotStart(`the journal ${path} has ${cause.message}: ${fix}`, { cause });
  }
}

/** One at a time: the text of all of them would take as much memory again, twice. */
function* linesOf(content: Buffer): Generator<string> {
  let start = 0;
  for (let end = content.indexOf("\n"); end >= 0; end = content.indexOf("\n", start)) {
    yield content.toString("utf8", start, end);
    start = end + 1;
  }
}

function readOrEmpty(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT") return Buffer.alloc(0);
    throw new CannotStart(`cannot read the journal: ${message}`, { cause });
  }
}

export type JournalParts = {
  readonly path: string;
  readonly log: Log;
  /** One line for each process that is known, as it stands. */
  readonly current: () => Iterable<Line>;
  /** Make the folder of the journal ready again, which somebody has removed. Throws when it cannot. */
  readonly reclaim: () => void;
};

/** A file, and how much of it is ours: what a broken write has left behind that is overwritten. */
type Tail = { readonly fd: number; bytes: number };

/** The file that is to replace the journal: written bit by bit, while events go on. */
type Draft = Tail & {
  readonly lines: Iterator<Line>;
  /** Whose line is in it; what befalls them later is in `pending`. */
  readonly held: Set<string>;
  isWhole: boolean;
  readonly pending: string[];
};

export type Journal = JournalParts & {
  tail: Tail;
  draft: Draft | null;
  /** The errno for which it cannot be written; null while it can. */
  trouble: string | null;
  isSyncDue: boolean;
  isTidyDue: boolean;
  compactAtBytes: number;
};

/**
 * Go on with the journal at `parts.path`, which was `read`. One with bad lines is first copied beside
 * itself. Throws CannotStart when it cannot be written.
 */
export function openJournal(parts: JournalParts, read: Read): Journal {
  const tail = openTail(parts.path, read);
  const compactAtBytes = read.bad.length > 0 ? 0 : COMPACT_BYTES;
  const idle = { draft: null, trouble: null, isSyncDue: false, isTidyDue: false };
  return { ...parts, ...idle, tail, compactAtBytes };
}

/** The file at the end of its whole lines, which is where it goes on. */
function openTail(path: string, { bytes, bad }: Read): Tail {
  try {
    if (bad.length > 0) copyFileSync(path, `${path}.damaged`);
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    ftruncateSync(fd, bytes);
    const tail = { fd, bytes };
    if (bytes === 0) put(tail, header);
    return tail;
  } catch (cause) {
    const { message } = cause as Error;
    const fix = "make room, or choose another directory with --state";
    throw new CannotStart(`cannot write the journal: ${message}; ${fix}`, { cause });
  }
}

/**
 * Write a line, before what it says is true in `current`. Null when it is in the kernel's hands, where
 * no crash of ours can undo it; else the errno: then it follows, with everything else, once the file
 * can be written again.
 */
export function append(journal: Journal, line: Line): string | null {
  const { draft } = journal;
  const text = encode(line);
  if (draft?.isWhole === true || draft?.held.has(line.id)) draft.pending.push(text);
  if (journal.trouble !== null) return journal.trouble;
  try {
    // Looked at before each start, and soon after everything else.
    if ("spec" in line) keepInPlace(journal);
    put(journal.tail, text);
  } catch (error) {
    return fallBehind(journal, error as NodeJS.ErrnoException);
  }
  syncSoon(journal);
  tidyUp(journal);
  return null;
}

/** Write all of `text` or nothing: what a full disk took of it is cut off, or overwritten. man 2 write. */
function put(tail: Tail, text: string): void {
  const bytes = Buffer.from(text);
  const written = bytes.length === 0 ? 0 : writeSync(tail.fd, bytes, 0, bytes.length, tail.bytes);
  if (written < bytes.length) {
    ftruncateSync(tail.fd, tail.bytes);
    throw Object.assign(new Error("ENOSPC: only a part was written"), { code: "ENOSPC" });
  }
  tail.bytes += written;
}

function syncSoon(journal: Journal): void {
  if (journal.isSyncDue) return;
  journal.isSyncDue = true;
  setTimeout(() => {
    journal.isSyncDue = false;
    tryKeepInPlace(journal);
    const { fd } = journal.tail;
    fdatasync(fd, (error) => {
      if (error !== null && fd === journal.tail.fd) fallBehind(journal, error);
    });
  }, SYNC_MS).unref();
}

// --- faults -----------------------------------------------------------------------------------

function fallBehind(journal: Journal, { code, message }: NodeJS.ErrnoException): string {
  if (journal.trouble === null) {
    const what = "cannot write the journal: until it can be written, nothing new is started";
    journal.log.error(what, { error: message });
  }
  journal.trouble = code ?? "EUNKNOWN";
  setTimeout(() => void compact(journal), RETRY_MS).unref();
  return journal.trouble;
}

/**
 * If the file was removed it is written anew at once: what comes next must not be lost with it. Whoever calls is
 * in the middle of a turn, and the disk is not waited for: an fsync takes milliseconds, on a busy disk seconds, and
 * a power cut can take no more than the removal has. The sync that is due within half a second is of this file too.
 */
function keepInPlace(journal: Journal): void {
  if (fstatSync(journal.tail.fd).nlink > 0) return;
  journal.reclaim();
  try {
    const draft = begin(journal);
    while (!fill(draft));
    replaceBy(journal, draft);
  } catch (error) {
    dropDraft(journal);
    throw error;
  }
  void syncFolder(journal);
  journal.log.warning("the journal was removed, and is written anew", { path: journal.path });
}

function tryKeepInPlace(journal: Journal): void {
  try {
    if (journal.trouble === null) keepInPlace(journal);
  } catch (error) {
    fallBehind(journal, error as NodeJS.ErrnoException);
  }
}

// --- tidying up -------------------------------------------------------------------------------

/**
 * Put a journal in order that has grown, or has bad lines. In a turn of its own: a line is written before
 * it is true in `current`, and what is copied from there in between would lack it.
 */
export function tidyUp(journal: Journal): void {
  if (journal.isTidyDue || journal.tail.bytes <= journal.compactAtBytes) return;
  journal.isTidyDue = true;
  setImmediate(() => {
    journal.isTidyDue = false;
    void compact(journal);
  });
}

/** Write the journal anew in its shortest form, in slices; this is also how it comes back from a fault. */
async function compact(journal: Journal): Promise<void> {
  if (journal.draft !== null) return;
  const slice = createSlices();
  let draft: Draft | null = null;
  try {
    if (journal.trouble !== null) journal.reclaim();
    draft = begin(journal);
    while (!fill(draft)) {
      await slice();
      if (journal.draft !== draft) return;
    }
    await promisify(fsync)(draft.fd);
    if (journal.draft !== draft) return;
    replaceBy(journal, draft);
    void syncFolder(journal);
  } catch (error) {
    const isAnothers = draft !== null && journal.draft !== draft; // this one was dropped for it
    if (!isAnothers) giveUp(journal, error as NodeJS.ErrnoException);
  }
}

/** A draft under way is dropped: the file has but one name. */
function begin(journal: Journal): Draft {
  dropDraft(journal);
  const fd = openSync(`${journal.path}.new`, "w", 0o600);
  const lines = journal.current()[Symbol.iterator]();
  const draft = { fd, bytes: 0, lines, held: new Set<string>(), isWhole: false, pending: [] };
  journal.draft = draft;
  put(draft, header);
  return draft;
}

function dropDraft(journal: Journal): void {
  if (journal.draft !== null) closeSync(journal.draft.fd);
  journal.draft = null;
}

/** Put the next lines into a draft; true when all of them are in it. */
function fill(draft: Draft): boolean {
  let text = "";
  while (text.length < CHUNK_CHARS) {
    const { value, done } = draft.lines.next();
    if (done === true) {
      draft.isWhole = true;
      break;
    }
    text += encode(value);
    draft.held.add(value.id);
  }
  put(draft, text);
  return draft.isWhole;
}

function replaceBy(journal: Journal, draft: Draft): void {
  put(draft, draft.pending.join(""));
  renameSync(`${journal.path}.new`, journal.path);
  closeSync(journal.tail.fd);
  journal.tail = draft;
  journal.draft = null;
  journal.compactAtBytes = Math.max(COMPACT_BYTES, 3 * draft.bytes);
  if (journal.trouble !== null) journal.log.info("the journal can be written again");
  journal.trouble = null;
}

/** Until then a power cut may leave the name to the old file, without what was written since. man 2 fsync. */
async function syncFolder({ path, log }: Journal): Promise<void> {
  try {
    const folder = await open(dirname(path));
    await folder.sync().finally(() => folder.close());
  } catch (error) {
    const what =
      "cannot sync the folder of the journal: a power cut may take what it says from now on";
    log.warning(what, { error: (error as Error).message });
  }
}

function giveUp(journal: Journal, error: NodeJS.ErrnoException): void {
  dropDraft(journal);
  journal.compactAtBytes = 2 * journal.tail.bytes;
  if (journal.trouble !== null) fallBehind(journal, error);
  else journal.log.warning("cannot tidy up the journal: it grows on", { error: error.message });
}
