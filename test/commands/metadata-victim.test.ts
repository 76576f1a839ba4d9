/** What new metadata may be written over: whatever is there is named and asked about, and a pool's data is refused. */
import { linkSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { crc32c } from "../../src/bytes/index.js";
import { SUPERBLOCK } from "../../src/thin/index.js";
import { readGoldenRun } from "../support/golden-images.js";
import { makeFolder } from "../support/make-folder.js";
import { type Ran, runMain } from "./run-main.js";

const SUPERBLOCK_SALT = 160774;
const POOL = readGoldenRun("kernel-random/run.json.br").run.checkpoints.at(-1)!.metadata;

class Folder {
  readonly path = makeFolder();

  remove(): void {
    rmSync(this.path, { recursive: true, force: true });
  }

  at(name: string): string {
    return join(this.path, name);
  }

  write(name: string, bytes: Uint8Array): string {
    writeFileSync(this.at(name), bytes);
    return this.at(name);
  }

  udm(...words: readonly string[]): Promise<Ran> {
    return runMain(words, { environment: { UDM_STATE_DIR: this.at("state"), UDM_RUN_DIR: this.at("run") } });
  }
}

const folder = new Folder();
afterAll(() => folder.remove());
const WRITERS: [string, ...string[]][] = [
  ["restore", "-i", folder.at("dump.xml")],
  ["repair", "--no-backup", "-i", folder.at("meta.img")],
  ["unpack", "-i", folder.at("meta.pack")],
];

beforeAll(async () => {
  const image = folder.write("meta.img", POOL);
  expect((await folder.udm("metadata", "dump", image, "-o", folder.at("dump.xml"))).status).toBe(0);
  expect((await folder.udm("metadata", "pack", "-i", image, "-o", folder.at("meta.pack"))).status).toBe(0);
});

/** A device of the pool's size with some bytes on it. */
function deviceWith(bytes: string, offset: number): Buffer {
  const device = Buffer.alloc(POOL.length);
  device.write(bytes, offset, "latin1");
  return device;
}

describe.each(WRITERS)("%s", (command, ...words) => {
  test.each([
    ["ext file system", deviceWith("\x53\xef", 1080)],
    ["xfs file system", deviceWith("XFSB", 0)],
    ["btrfs file system", deviceWith("_BHRfS_M", 65600)],
    ["LUKS volume", deviceWith("LUKS\xba\xbe", 0)],
    ["LVM physical volume", deviceWith("LABELONE", 512)],
    ["RAID member", deviceWith("\xfc\x4e\x2b\xa9", 4096)],
    ["partition table", deviceWith("\x55\xaa", 510)],
  ])("asks before it destroys: %s", async (what, device) => {
    const target = folder.write("target.img", device);
    const ran = await folder.udm("metadata", command, ...words, "-o", target);
    expect(ran).toMatchObject({ status: 1, stdout: "" });
    expect(ran.stderr).toBe(
      `udm: overwrite the ${what} on '${target}': refused without confirmation\n` +
        "hint: this destroys data; add --yes to do it without being asked\n",
    );
    expect(readFileSync(target).equals(device)).toBe(true);
  });

  test("asks before it destroys what nobody knows, and does it with --yes", async () => {
    const device = deviceWith("my diary", 100);
    const target = folder.write("target.img", device);
    const refused = await folder.udm("metadata", command, ...words, "-o", target);
    expect(refused.stderr).toMatch(/^udm: overwrite what is on '.*target.img': refused without confirmation\n/);
    expect(readFileSync(target).equals(device)).toBe(true);
    expect((await folder.udm("metadata", command, ...words, "-o", target, "--yes")).status).toBe(0);
    expect((await folder.udm("metadata", "check", target)).status).toBe(0);
  });

  test("a blank one is written without a word", async () => {
    const target = folder.write("target.img", Buffer.alloc(POOL.length));
    expect((await folder.udm("metadata", command, ...words, "-o", target)).status).toBe(0);
  });
});

describe("the data of a pool", () => {
  const own = new Folder();
  afterAll(() => own.remove());
  const names = ["data.img", "hard link", "symbolic link"];

  beforeAll(async () => {
    own.write("data.img", Buffer.alloc(2 ** 20));
    own.write("metadata.img", Buffer.alloc(2 ** 20));
    linkSync(own.at("data.img"), own.at("hard link"));
    symlinkSync(own.at("data.img"), own.at("symbolic link"));
    const made = await own.udm(
      "pool",
      "create",
      "p",
      "--data",
      own.at("data.img"),
      "--metadata",
      own.at("metadata.img"),
    );
    expect(made.status, made.stderr).toBe(0);
  });

  test.each(WRITERS.flatMap((words) => names.map((name) => [words[0], name, words] as const)))(
    "%s refuses %s, even with --yes",
    async (_command, name, words) => {
      const ran = await own.udm("metadata", ...words, "-o", own.at(name), "--yes");
      expect(ran).toMatchObject({ status: 1, stdout: "" });
      expect(ran.stderr).toMatch(/^udm: .*: holds the data of pool 'p'\nhint: .*\n$/);
      expect(readFileSync(own.at("data.img")).every((byte) => byte === 0)).toBe(true);
    },
  );
});

test("a dump takes the place of no pool without a word", async () => {
  const target = folder.write("pool.img", POOL);
  const ran = await folder.udm("metadata", "dump", folder.at("meta.img"), "-o", target);
  expect(ran).toMatchObject({ status: 1, stdout: "" });
  expect(ran.stderr).toMatch(/^udm: overwrite the pool metadata on '.*pool.img' \(transaction \d+\): refused/);
  expect(readFileSync(target).equals(POOL)).toBe(true);
});

test("a number of data blocks that cannot be is no size", async () => {
  const bytes = Buffer.from(POOL);
  bytes.writeBigUInt64LE(2n ** 60n, SUPERBLOCK.fields.dataSpaceMapRoot.offset);
  const view = new DataView(bytes.buffer, bytes.byteOffset, 4096);
  bytes.writeUInt32LE((crc32c(view, 4) ^ SUPERBLOCK_SALT) >>> 0, 0);
  const ran = await folder.udm("metadata", "size", folder.write("forged.img", bytes));
  expect(ran).toMatchObject({ status: 1, stdout: "" });
  expect(ran.stderr).toMatch(/^udm: .*forged.img: the superblock's number of data blocks cannot be\nhint: /);
});
