// The tag: a number in the soft RLIMIT_LOCKS of every process that procsup starts, which is inherited
// through fork, exec, setsid and a cleared environment. A sign by which to find members, not a
// boundary: a process may set the limit anew, and PAM does for su and sudo.

import { readLocksLimit, setLocksLimit } from "../kernel/native.js";

/** RLIM_INFINITY, what the limit is where nobody set one. man 2 prlimit. */
const NONE = 0xffff_ffff_ffff_ffffn;
const ID_BITS = 32n;

/** The tags of one daemon: `key` tells them from those of every other daemon on the machine. */
export type Tags = {
  readonly key: number;
  readonly inForce: boolean;
  /** Those of the trees that live. */
  readonly borne: Set<bigint>;
};

/** `key` has 31 bits, not all zero. Not in force where the hard limit leaves no room for tags. */
export function createTags(key: number): Tags {
  const borne = new Set<bigint>();
  try {
    withTag(tagOf(key, "pffffffffffff"), () => undefined);
    return { key, inForce: true, borne };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EINVAL") throw error;
    return { key, inForce: false, borne };
  }
}

/** The tag of a process by its id: the key, then the id's last 32 bits. */
function tagOf(key: number, id: string): bigint {
  return (BigInt(key) << ID_BITS) | BigInt(`0x${id.slice(-8)}`);
}

/** What every process of that id bears; null where no tags are in force. */
export function tagFor(tags: Tags, id: string): bigint | null {
  return tags.inForce ? tagOf(tags.key, id) : null;
}

/** A tree of that id lives, until `shedTag`. */
export function bearTag({ key, borne }: Tags, id: string): void {
  borne.add(tagOf(key, id));
}

/** Nothing of it lives any more: its tag may be another's. */
export function shedTag({ key, borne }: Tags, id: string): void {
  borne.delete(tagOf(key, id));
}

/** True for an id whose tag a living tree bears, perhaps that of another id with the same end. */
export function isBorne({ key, borne }: Tags, id: string): boolean {
  return borne.has(tagOf(key, id));
}

/** True for a tag of this daemon, whatever the process. */
export function isTagged({ key }: Tags, tag: bigint | null): boolean {
  return tag !== null && tag !== NONE && tag >> ID_BITS === BigInt(key);
}

/** Run `spawn` so that whatever it starts bears `tag`; our own limit is restored. */
export function withTag<T>(tag: bigint, spawn: () => T): T {
  const before = readLocksLimit(0) ?? NONE;
  setLocksLimit(tag);
  try {
    return spawn();
  } finally {
    setLocksLimit(before);
  }
}
