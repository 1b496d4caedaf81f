// Users of the machine, and looking at files with their eyes instead of ours: accounts through the C
// library (so LDAP and the like count), file-system credentials of this one thread.

import { closeSync, openSync } from "node:fs";
import koffi from "koffi";
import { check, errnoName, libc, systemCall } from "./native.js";

/** A user as at login. `groups` holds every group, the first one included. */
export type Account = {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly home: string;
  readonly shell: string;
};

// struct passwd, the same in glibc and musl. man 3 getpwnam.
const passwd = koffi.struct("passwd", {
  name: "const char *",
  password: "const char *",
  uid: "uint",
  gid: "uint",
  gecos: "const char *",
  home: "const char *",
  shell: "const char *",
});
// The first fields of struct group, which are all that is needed.
const groupStart = koffi.struct("group", {
  name: "const char *",
  password: "const char *",
  gid: "uint",
});
const getgrnam = libc.func("group *getgrnam(const char *name)");
const getpwuid = libc.func("passwd *getpwuid(uint uid)");
const getpwnam = libc.func("passwd *getpwnam(const char *name)");
const getgrouplistFn = libc.func(
  "int getgrouplist(const char *name, uint gid, void *groups, _Inout_ int *count)",
);

/** The account of a number or a name; null when there is none. Throws EMFILE and ENFILE. man 3 getpwuid. */
export function findAccount(user: number | string): Account | null {
  makeSure();
  const found: unknown = typeof user === "number" ? getpwuid(user) : getpwnam(user);
  if (found === null) return null;
  const { name, uid, gid, home, shell } = koffi.decode(found, passwd) as Account;
  return { name, uid, gid, groups: groupsOf(name, gid), home, shell: shell || "/bin/sh" };
}

/** What one lookup opens at most: a file, or the socket of a service, and what leads there. man 5 nsswitch.conf. */
const LOOKUP_FDS = 4;

/** Throws EMFILE where a lookup would lack a descriptor: it would say that there is no such account. */
function makeSure(): void {
  const fds: number[] = [];
  try {
    while (fds.length < LOOKUP_FDS) fds.push(openSync("/dev/null", "r"));
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

/**
 * The number that a process of `user`, a name or the number of nobody's, can never change, since
 * no_new_privs keeps it; null for the daemon's own user, who is not bound so, and for a name that is gone.
 */
export function boundUid(user: string): number | null {
  if (process.geteuid?.() !== 0) return null;
  const uid = findAccount(user)?.uid ?? (/^\d+$/.test(user) ? Number(user) : 0);
  return uid === 0 ? null : uid;
}

/** man 3 getgrouplist. */
function groupsOf(name: string, gid: number): number[] {
  for (let room = 64; ; room *= 4) {
    const groups = new Uint32Array(room);
    const count = [room];
    if (getgrouplistFn(name, gid, groups, count) >= 0) return [...groups.slice(0, count[0])];
  }
}

/** The number of a group; null when there is none of that name. man 3 getgrnam. */
export function findGroup(name: string): number | null {
  const found: unknown = getgrnam(name);
  return found === null ? null : (koffi.decode(found, groupStart) as { gid: number }).gid;
}

// --- with their eyes --------------------------------------------------------------------------

// Raw calls change this thread only; those of the C library would change all of them. man 7 nptl.
const numbers = numbersOn(process.arch);
const setGroupsFn = systemCall(numbers.setgroups, ["int", "void *"]);
const setFsGid = systemCall(numbers.setfsgid, ["uint"]);
const setFsUid = systemCall(numbers.setfsuid, ["uint"]);
const faccessat2Fn = systemCall(439, ["int", "const char *", "int", "int"]);

/** Linux, arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h. */
function numbersOn(arch: NodeJS.Architecture) {
  switch (arch) {
    case "x64":
      return { setfsuid: 122, setfsgid: 123, setgroups: 116 };
    case "arm64":
      return { setfsuid: 151, setfsgid: 152, setgroups: 159 };
    default: // by another machine's numbers it would make other calls
      throw new Error(`procsup runs on x64 and arm64: it knows no system call numbers of ${arch}`);
  }
}

function setGroups(groups: readonly number[]): void {
  const list = Uint32Array.from(groups);
  check(setGroupsFn(list.length, list), "setgroups");
}

const ownGroups = process.getgroups?.() ?? [];

/**
 * Run `look`, which must be synchronous, so that the kernel judges every path in it as it would for
 * `account`: no right of ours opens what is closed to them. Needs root; without, or for root, nothing
 * is changed. man 2 setfsuid: the capabilities that pass over permissions go with it.
 */
export function asUser<T>(account: Account | null, look: () => T): T {
  if (account === null || process.geteuid?.() !== 0 || account.uid === 0) return look();
  try {
    setGroups(account.groups);
    setFsGid(account.gid);
    setFsUid(account.uid);
    return look();
  } finally {
    setFsUid(0);
    setFsGid(process.getegid?.() ?? 0);
    setGroups(ownGroups);
  }
}

/**
 * The errno with which the kernel would keep this thread from executing a file, or from entering a folder whose path
 * ends in `/`, by the credentials that count for paths; null where it would not. access(2) would ask those of whoever
 * started us. man 2 faccessat2.
 */
export function whyNotExecute(path: string): string | null {
  const AT_FDCWD = -100;
  const X_OK = 1;
  const AT_EACCESS = 0x200;
  const isAllowed = faccessat2Fn(AT_FDCWD, path, X_OK, AT_EACCESS) === 0;
  return isAllowed ? null : errnoName(koffi.errno());
}
