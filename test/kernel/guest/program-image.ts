/**
 * A file system image with this program, node and the tools it calls, as they are on this machine, for the guest: what runs here
 * as a process runs there on a kernel that has what ours has not.
 */
import { execFile } from "node:child_process";
import { cp, mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const PATH = `/usr/sbin:/sbin:/usr/bin:/bin:${process.env.PATH ?? ""}`;
/** Programs of udm and of the scripts. */
const PROGRAMS = [
  ...[
    "bash",
    "cat",
    "chmod",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dmesg",
    "echo",
    "grep",
    "head",
    "ls",
    "ln",
    "mkdir",
    "mv",
  ],
  ...[
    "readlink",
    "rm",
    "sed",
    "sha256sum",
    "sleep",
    "stat",
    "sync",
    "tail",
    "timeout",
    "touch",
    "tr",
    "truncate",
    "kill",
  ],
  ...["blkdiscard", "blockdev", "fstrim", "losetup", "lsblk", "mount", "umount", "mkfs.ext4", "e2fsck", "resize2fs"],
  ...["nbd-client", "fio"],
];

/** @returns nothing; `path` is an image that has all of it, to be mounted read-only */
export async function makeProgramImage(path: string, workFolder: string): Promise<void> {
  const root = join(workFolder, "root");
  for (const folder of ["dev", "proc", "sys", "tmp", "run", "work", "etc", "usr/bin", "usr/sbin", "usr/lib", "mnt"]) {
    await mkdir(join(root, folder), { recursive: true });
  }
  for (const [link, target] of [
    ["bin", "usr/bin"],
    ["sbin", "usr/sbin"],
    ["lib", "usr/lib"],
    ["lib64", "usr/lib"],
  ] as const) {
    await symlink(target, join(root, link));
  }
  const libraries = new Set<string>();
  const place = async (file: string, to: string) => {
    await cp(file, join(root, to), { dereference: true });
    for (const library of await librariesOf(file)) libraries.add(library);
  };
  for (const name of PROGRAMS) {
    const found = await run("bash", ["-c", 'type -P "$1"', "-", name], { env: { PATH } });
    await place(found.stdout.trim(), `usr/bin/${name}`);
  }
  await place(process.execPath, "usr/bin/node");
  await symlink("bash", join(root, "usr/bin/sh"));
  for (const part of ["bin", "dist", "package.json"]) {
    const filter = (path: string) => !path.endsWith(".map") && !path.endsWith(".d.ts");
    await cp(join(ROOT, part), join(root, "udm", part), { recursive: true, dereference: true, filter });
  }
  const { dependencies } = JSON.parse(await readFile(join(ROOT, "package.json"), "utf8")) as {
    readonly dependencies: Readonly<Record<string, string>>;
  };
  for (const name of await closureOf(Object.keys(dependencies))) {
    await cp(join(ROOT, "node_modules", name), join(root, "udm/node_modules", name), {
      recursive: true,
      dereference: true,
    });
  }
  const { stdout: natives } = await run("find", ["-L", join(root, "udm/node_modules"), "-name", "*.node"]);
  for (const native of natives.split("\n").filter((each) => /linux.*x64/.test(each))) {
    for (const library of await librariesOf(native)) libraries.add(library);
  }
  for (const library of libraries) {
    await mkdir(join(root, dirname(library)), { recursive: true });
    await cp(library, join(root, library), { dereference: true });
  }
  await writeFile(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n");
  await writeFile(join(root, "etc/mtab"), "");
  await writeFile(join(root, "usr/bin/udm"), '#!/bin/sh\nexec node /udm/bin/udm.js "$@"\n', { mode: 0o755 });
  await rm(path, { force: true });
  await run("truncate", ["-s", "400M", path]);
  await run("mkfs.ext4", ["-q", "-O", "^has_journal", "-d", root, path], { env: { PATH } });
  await rm(root, { recursive: true });
}

async function librariesOf(file: string): Promise<readonly string[]> {
  const { stdout } = await run("ldd", [file]).catch(() => ({ stdout: "" }));
  return [...stdout.matchAll(/(\/[^ )]+) \(0x/g)].map(([, path]) => path!);
}

/** Packages and what they depend on, all of which lie side by side. */
async function closureOf(names: readonly string[]): Promise<readonly string[]> {
  const all = new Set<string>();
  const visit = async (name: string): Promise<void> => {
    if (all.has(name)) return;
    const text = await readFile(join(ROOT, "node_modules", name, "package.json"), "utf8").catch(() => undefined);
    if (text === undefined) return;
    all.add(name);
    const parsed = JSON.parse(text) as {
      readonly dependencies?: Readonly<Record<string, string>>;
      readonly optionalDependencies?: Readonly<Record<string, string>>;
    };
    for (const each of Object.keys({ ...parsed.dependencies, ...parsed.optionalDependencies })) await visit(each);
  };
  for (const name of names) await visit(name);
  return [...all];
}
