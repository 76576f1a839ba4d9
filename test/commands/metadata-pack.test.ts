/** `udm metadata pack` and `unpack`: files that stay whole, targets that are not lost, failures in one line. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import { describe, expect, test } from "vitest";
import { schemaOf } from "../../src/commands/schema/json-schema.js";
import { readGoldenRun } from "../support/golden-images.js";
import { faultsOf } from "../support/json-schema.js";
import { temporaryFolder } from "../support/make-folder.js";
import { KINDS, kindsImage, plainImage } from "../support/packed-metadata.js";
import { type Ran, runMain } from "./run-main.js";

const BLOCK = 4096;
const POOL = readGoldenRun("kernel-random/run.json.br").run.checkpoints.at(-1)!.metadata;

class Folder {
  readonly path = temporaryFolder();

  write(name: string, bytes: Uint8Array | string): string {
    const path = join(this.path, name);
    writeFileSync(path, bytes);
    return path;
  }

  at(name: string): string {
    return join(this.path, name);
  }

  read(name: string): Buffer {
    return readFileSync(this.at(name));
  }

  names(): readonly string[] {
    return readdirSync(this.path)
      .filter((name) => name !== "state" && name !== "run")
      .sort();
  }

  udm(...words: readonly string[]): Promise<Ran> {
    const environment = { UDM_STATE_DIR: this.at("state"), UDM_RUN_DIR: this.at("run") };
    return runMain(["metadata", ...words], { environment });
  }
}

test("a pool's metadata comes back, and a check of it is clean", async () => {
  const folder = new Folder();
  const image = folder.write("meta.img", POOL);
  const packed = await folder.udm("pack", "-i", image, "-o", folder.at("meta.pack"));
  expect(packed).toMatchObject({ status: 0, stderr: "" });
  expect(packed.stdout).toMatch(/^packed \d+ of 2119 blocks, 8\.3M into [\d.]+K\n$/);
  const unpacked = await folder.udm("unpack", "-i", folder.at("meta.pack"), "-o", folder.at("copy.img"));
  expect(unpacked).toMatchObject({ status: 0, stderr: "" });
  expect(folder.read("copy.img").equals(plainImage(folder.read("meta.pack")))).toBe(true);
  expect((await folder.udm("check", folder.at("copy.img"))).status).toBe(0);
  const dumps = await Promise.all([image, folder.at("copy.img")].map((each) => folder.udm("dump", each)));
  expect(dumps[1]!.stdout).toBe(dumps[0]!.stdout);
  expect(folder.names()).toEqual(["copy.img", "meta.img", "meta.pack"]);
});

test("what is left out is told, and --damaged all leaves out nothing", async () => {
  const folder = new Folder();
  const image = folder.write("meta.img", kindsImage());
  const usual = await folder.udm("pack", "-i", image, "-o", folder.at("a.pack"));
  expect(usual.stderr).toBe(
    `udm: ${image}: 2 blocks hold something else and were left out; --damaged all takes them along\n`,
  );
  expect(usual.stdout).toMatch(/^packed 19 and 3 damaged of 256 blocks, 1M into [\d.]+K\n$/);
  const all = await folder.udm("--json", "pack", "-i", image, "-o", folder.at("b.pack"), "--damaged", "all");
  expect(all).toMatchObject({ status: 0, stderr: "" });
  expect(JSON.parse(all.stdout).packed).toEqual({
    file: folder.at("b.pack"),
    packedBytes: statSync(folder.at("b.pack")).size,
    blocks: 256,
    sound: KINDS.sound.length,
    damaged: 5,
    leftOut: 0,
    unreadable: [],
  });
  expect(faultsOf(schemaOf("packed"), JSON.parse(all.stdout))).toEqual([]);
  const back = await folder.udm("--json", "unpack", "-i", folder.at("b.pack"), "-o", folder.at("c.img"));
  expect(faultsOf(schemaOf("unpacked"), JSON.parse(back.stdout))).toEqual([]);
  expect(folder.read("c.img").equals(kindsImage())).toBe(true);
});

describe("unpacking over what is there", () => {
  const prepared = async () => {
    const folder = new Folder();
    folder.write("meta.img", POOL);
    await folder.udm("pack", "-i", folder.at("meta.img"), "-o", folder.at("meta.pack"));
    return folder;
  };

  test("a pool is not overwritten without a word", async () => {
    const folder = await prepared();
    const other = folder.write("other.img", POOL);
    const words = ["unpack", "-i", folder.at("meta.pack"), "-o", other];
    const refused = await folder.udm(...words);
    expect(refused).toMatchObject({ status: 1, stdout: "" });
    expect(refused.stderr).toMatch(/^udm: overwrite the pool metadata on '.*other.img' \(transaction \d+\): refused/);
    expect(folder.read("other.img").equals(POOL)).toBe(true);
    expect((await folder.udm(...words, "--force")).status).toBe(0);
    expect((await folder.udm(...words, "--yes")).status).toBe(0);
  });

  test("nothing is written before the packed file is known to be whole", async () => {
    const folder = await prepared();
    const packed = folder.read("meta.pack");
    const cut = folder.write("cut.pack", packed.subarray(0, packed.length - 20));
    const other = folder.write("other.img", POOL);
    const ran = await folder.udm("unpack", "--force", "-i", cut, "-o", other);
    expect(ran.status).toBe(1);
    expect(ran.stderr).toMatch(/^udm: .*cut.pack: cut off: .*\nhint: the file was cut off/);
    expect(folder.read("other.img").equals(POOL)).toBe(true);
  });

  test("a file grows, and what is larger is zeros behind", async () => {
    const folder = await prepared();
    const small = folder.write("small.img", Buffer.alloc(100, 1));
    const large = folder.write("large.img", Buffer.alloc(POOL.length + 10 * BLOCK, 1));
    for (const target of [small, large]) {
      expect((await folder.udm("unpack", "-i", folder.at("meta.pack"), "-o", target, "--force")).status).toBe(0);
    }
    const whole = plainImage(folder.read("meta.pack"));
    expect(folder.read("small.img").equals(whole)).toBe(true);
    expect(folder.read("large.img").equals(Buffer.concat([whole, Buffer.alloc(10 * BLOCK)]))).toBe(true);
  });

  test("a loop device that is too small is refused and left as it was", async () => {
    const folder = await prepared();
    folder.write("loop.img", Buffer.alloc(1024 * BLOCK, 1));
    const environment = { UDM_STATE_DIR: folder.at("state"), UDM_RUN_DIR: folder.at("run") };
    const { stdout } = await runMain(["loop", "attach", folder.at("loop.img")], { environment });
    const ran = await folder.udm("unpack", "-i", folder.at("meta.pack"), "-o", stdout.trim());
    expect(ran.status).toBe(1);
    expect(ran.stderr).toMatch(
      /^udm: 7:0: 4M \(4194304 bytes\), the packed metadata has 8\.3M \(8679424 bytes\)\nhint: /,
    );
    expect(folder.read("loop.img").every((byte) => byte === 1)).toBe(true);
  });

  test("--dry-run reads all of the file and writes nothing", async () => {
    const folder = await prepared();
    const words = ["--dry-run", "unpack", "-i", folder.at("meta.pack"), "-o", folder.at("new.img")];
    expect((await folder.udm(...words)).stdout).toBe(
      `thin_metadata_unpack -i ${folder.at("meta.pack")} -o ${folder.at("new.img")}\n`,
    );
    expect(existsSync(folder.at("new.img"))).toBe(false);
  });
});

test("through a pipe, with nothing but the file on it", async () => {
  const folder = new Folder();
  const image = folder.write("meta.img", kindsImage());
  const environment = { UDM_STATE_DIR: folder.at("state"), UDM_RUN_DIR: folder.at("run") };
  const packed = await runMain(["metadata", "pack", "-i", image, "-o", folder.at("a.pack")], { environment });
  expect(packed.status).toBe(0);
  const { main } = await import("../../src/main.js");
  const { stdout, stderr } = { stdout: new Sink(), stderr: new Sink() };
  const piped = { stdin: Readable.from([]), stdout, stderr };
  const options = { environment: { LC_ALL: "C", ...environment }, isRoot: false };
  expect(await main(["metadata", "pack", "-i", image, "-o", "-"], piped, options)).toBe(0);
  expect(stdout.bytes.equals(folder.read("a.pack"))).toBe(true);
  const from = { stdin: Readable.from([stdout.bytes]), stdout: new Sink(), stderr: new Sink() };
  expect(await main(["metadata", "unpack", "-i", "-", "-o", folder.at("b.img")], from, options)).toBe(0);
  expect(statSync(folder.at("b.img")).size).toBe(256 * BLOCK);
  const again = { stdin: Readable.from([stdout.bytes]), stdout: new Sink(), stderr: new Sink() };
  expect(await main(["metadata", "unpack", "-i", "-", "-o", folder.at("b.img")], again, options)).toBe(2);
  expect(again.stderr.bytes.toString()).toMatch(/b.img is there, and standard input cannot be read twice\nhint: /);
});

describe("failures are one line, and leave nothing", () => {
  test.each<readonly [string, string, readonly string[], RegExp]>([
    ["no packed file", "notes", ["unpack", "-i", "notes", "-o", "new.img"], /notes: no packed metadata: .*\nhint: /],
    ["no input", "x", ["unpack", "-i", "missing", "-o", "new.img"], /^udm: .*missing.*\nhint: /],
    ["a folder", "x", ["unpack", "-i", ".", "-o", "new.img"], /: not a file\nhint: /],
    ["an output in no folder", "x", ["pack", "-i", "x", "-o", "none/a.pack"], /none\/a.pack.*\nhint: /],
    [
      "no input to pack",
      "x",
      ["pack", "-i", "missing.img", "-o", "a.pack"],
      /missing.img: no such file or device\nhint: /,
    ],
    [
      "an input that is too small",
      "short",
      ["pack", "-i", "short", "-o", "a.pack"],
      /512 bytes, wanted 4096 or more\nhint: /,
    ],
    ["input and output the same", "x", ["pack", "-i", "x", "-o", "x"], /hint: /],
    [
      "a device that is not there",
      "x",
      ["unpack", "-i", "x", "-o", "/dev/mapper/none"],
      /\/dev\/mapper\/none: no such/,
    ],
  ])("%s", async (_, name, words, message) => {
    const folder = new Folder();
    await folder.udm("ls", folder.write(name, "a text ".repeat(name === "short" ? 100 : 1000)));
    const isPath = (index: number) => index > 0 && /^-[io]$/.test(words[index - 1]!);
    const ran = await folder.udm(
      ...words.map((word, index) => (isPath(index) && !word.startsWith("/") ? folder.at(word) : word)),
    );
    expect(ran.status, ran.stderr).toBeGreaterThan(0);
    expect(ran.stderr).toMatch(message);
    expect(ran.stderr.trimEnd().split("\n")).toHaveLength(2);
    expect(folder.names()).toEqual([name]);
  });

  test("an interrupt leaves no file", async () => {
    const folder = new Folder();
    const image = folder.write("meta.img", POOL);
    await folder.udm("pack", "-i", image, "-o", folder.at("meta.pack"));
    const environment = { UDM_STATE_DIR: folder.at("state"), UDM_RUN_DIR: folder.at("run") };
    for (const words of [
      ["pack", "-i", image, "-o", folder.at("b.pack")],
      ["unpack", "-i", folder.at("meta.pack"), "-o", folder.at("b.img")],
    ]) {
      const ran = await runMain(["metadata", ...words], { environment, interrupt: AbortSignal.abort() });
      expect(ran.status, words.join(" ")).not.toBe(0);
    }
    expect(folder.names()).toEqual(["meta.img", "meta.pack"]);
  });
});

class Sink extends Writable {
  bytes = Buffer.alloc(0);
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.bytes = Buffer.concat([this.bytes, chunk]);
    done();
  }
}
