/**
 * `npm run demo`: the main job in a temporary folder, by whoever runs it: a pool on sparse files, a thin device with real
 * data, a snapshot, copy-on-write on both sides, growth, status and the tree. Shows each command and what it printed, and
 * checks the result byte by byte against what plain file writes make of the same data.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const MIB = 1024 * 1024;
const THIN_BYTES = 2048 * MIB;
const UDM = fileURLToPath(new URL("../../bin/udm.js", import.meta.url));

const folder = mkdtempSync(join(tmpdir(), "udm-demo-"));
const checks: { readonly what: string; readonly isRight: boolean }[] = [];

try {
  prepare();
  demonstrate();
  check();
} finally {
  rmSync(folder, { recursive: true, force: true });
}

const wrong = checks.filter((each) => !each.isRight);
console.log("");
for (const { what, isRight } of checks) console.log(`${isRight ? "ok  " : "WRONG"} ${what}`);
console.log(
  wrong.length === 0 ? `\nPASS: all ${checks.length} checks` : `\nFAIL: ${wrong.length} of ${checks.length} checks`,
);
process.exitCode = wrong.length === 0 ? 0 : 1;

/** The files the demonstration starts from: an ext4 image where it can be made, and a patch. */
function prepare(): void {
  mkdirSync(join(folder, "bin"));
  symlinkSync(UDM, join(folder, "bin/udm"));
  const image = join(folder, "disk.img");
  writeFileSync(image, "");
  truncateSync(image, 256 * MIB);
  const source = fileURLToPath(new URL("../../src", import.meta.url));
  const made = spawnSync("mkfs.ext4", ["-q", "-F", "-d", source, image], { env: programPath() });
  if (made.status === 0) {
    console.log("# disk.img is an ext4 file system that holds udm's own sources");
  } else {
    console.log("# disk.img is made of udm's own program text (mkfs.ext4 is not installed)");
    truncateSync(image, 0);
    truncateSync(image, 256 * MIB);
    const text = readFileSync(fileURLToPath(new URL("../../dist/main.js", import.meta.url)));
    const file = openSync(image, "r+");
    for (let place = 0; place < 256; place += 7) writeSync(file, text, 0, text.length, place * MIB + place * 512);
    closeSync(file);
  }
  const patch = Buffer.alloc(100_000);
  for (let at = 0; at < patch.length; at++) patch[at] = (at * 31 + (at >> 8)) & 0xff;
  writeFileSync(join(folder, "patch"), patch);
}

function demonstrate(): void {
  say("Two sparse files become loop devices of udm's own");
  shell("udm loop attach metadata.img --size 128m");
  shell("udm loop attach data.img --size 10g");
  say("A pool from a table line, as the kernel takes it");
  shell('udm pool create pool --table "0 20971520 thin-pool 7:0 7:1 128 32768"');
  say("A thin device, and an image on it");
  shell("udm thin create pool base --size 2g");
  shell("udm thin import base disk.img");
  say("A snapshot, and writes on both sides of it");
  shell("udm thin snap base layer1");
  shell("udm thin write layer1 --offset 1m < patch");
  shell("udm thin write base --offset 200m < patch");
  say("The pool grows: the long way, with the file, the loop device and the table in one command");
  shell("udm table suspend pool && udm pool resize pool 20g && udm table resume pool");
  say("What came of it");
  shell("udm pool status pool");
  shell("udm thin list");
  shell("udm thin diff base layer1");
  shell("udm table status");
  shell("udm lsblk loop0 loop1");
  say("And out again");
  shell("udm thin export base base.img");
  shell("udm thin export layer1 layer1.img");
  shell(
    'ls -ls data.img metadata.img base.img layer1.img | awk \'{ print $1 "K on disk of", $6 / 1048576 "M", $NF }\'',
  );
}

/** Compares with the same writes on plain copies. */
function check(): void {
  const patch = readFileSync(join(folder, "patch"));
  const image = readFileSync(join(folder, "disk.img"));
  const wanted = (offset: number) => {
    const copy = Buffer.from(image);
    patch.copy(copy, offset);
    return copy;
  };
  expectImage("base", wanted(200 * MIB));
  expectImage("layer1", wanted(MIB));
  const status = output("udm table status pool");
  expectThat(
    /^0 41943040 thin-pool \d+ \d+\/32768 \d+\/327680 - rw /.test(status),
    "the pool has 20 GiB and is healthy",
  );
  const onDisk = statSync(join(folder, "data.img")).blocks * 512;
  expectThat(onDisk < 300 * MIB, `data.img, 20 GiB long, takes ${Math.ceil(onDisk / MIB)} MiB on disk`);
  const program = spawnSync("thin_check", ["-V"], { env: programPath() });
  if (program.error !== undefined) {
    console.log("\n# thin_check is not installed; it would look at metadata.img here");
    return;
  }
  shell("thin_check -q metadata.img && echo clean");
  expectThat(
    spawnSync("thin_check", ["-q", join(folder, "metadata.img")], { env: programPath() }).status === 0,
    "thin_check finds the metadata clean",
  );
}

function expectImage(name: string, wanted: Buffer): void {
  const path = join(folder, `${name}.img`);
  expectThat(statSync(path).size === THIN_BYTES, `${name}.img has the size of the thin device, 2 GiB`);
  const sums = partSums(path, wanted.length);
  const sum = sha256(wanted);
  expectThat(sums[0] === sum, `${name}.img reads back with sha256 ${sum.slice(0, 16)}...`);
  const zeros = sha256(Buffer.alloc(wanted.length));
  expectThat(
    sums.slice(1).every((each) => each === zeros),
    `${name}.img is zeros behind the image`,
  );
}

/** Checksums of a file's parts, which are read one after the other. */
function partSums(path: string, partBytes: number): readonly string[] {
  const file = openSync(path, "r");
  const part = Buffer.alloc(partBytes);
  const sums: string[] = [];
  for (let length = readSync(file, part); length > 0; length = readSync(file, part)) {
    sums.push(sha256(part.subarray(0, length)));
  }
  closeSync(file);
  return sums;
}

function expectThat(isRight: boolean, what: string): void {
  checks.push({ what, isRight });
}

function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function say(text: string): void {
  console.log(`\n# ${text}`);
}

/** Shows a command, runs it, shows what it printed. */
function shell(line: string): void {
  console.log(`$ ${line}`);
  const ran = run(line);
  process.stdout.write(ran.stdout + ran.stderr);
  expectThat(ran.status === 0, line);
}

function output(line: string): string {
  return run(line).stdout;
}

function run(line: string) {
  return spawnSync("sh", ["-c", line], { cwd: folder, env: programPath(), encoding: "utf8" });
}

function programPath(): Record<string, string> {
  return {
    ...(process.env as Record<string, string>),
    PATH: `${join(folder, "bin")}:${process.env.PATH ?? ""}:/usr/sbin:/sbin`,
    UDM_STATE_DIR: join(folder, "state"),
    UDM_RUN_DIR: join(folder, "run"),
  };
}
