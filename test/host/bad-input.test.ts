/** Everything that is refused is refused with one line and a hint, before anything changes. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { describe, expect, test } from "vitest";
import { UdmError } from "../../src/errors/index.js";
import { Claims } from "../../src/io/index.js";
import { MIB, makeHost, makePool, pattern, type TestHost, write } from "./make-host.js";

/** Names, sizes and contents of all files of a folder; large ones by the blocks they take. */
function picture(folder: string): string {
  const lines: string[] = [];
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isDirectory() || entry.name === "lock" || entry.name === "state.json.previous") continue;
    const stat = statSync(path);
    if (stat.blocks === 0) {
      lines.push(`${path} ${stat.size} one hole`);
      continue;
    }
    const bytes = readFileSync(path);
    // The state counts its own changes; a change and its undoing are none.
    if (entry.name === "state.json") lines.push(bytes.toString().replace(/"serial": \d+/, ""));
    else lines.push(`${path} ${bytes.length} ${hash(bytes)}`);
  }
  return lines.sort().join("\n");
}

function hash(bytes: Buffer): string {
  return createHash("md5").update(bytes).digest("hex");
}

interface Refusal {
  readonly code: string;
  readonly says?: RegExp;
  /** The refused operation leaves a mark that the kernel would leave too. */
  readonly leavesMark?: boolean;
}

async function refuses(
  host: TestHost,
  run: () => Promise<unknown>,
  { code, says, leavesMark }: Refusal,
): Promise<void> {
  const before = picture(host.folder);
  const error = await run().then(
    () => expect.unreachable("it was accepted"),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UdmError);
  const { code: found, message, hint } = error as UdmError;
  expect({ code: found, message }).toEqual({ code, message: expect.stringMatching(says ?? /./) });
  expect(message).not.toContain("\n");
  expect(hint, message).toEqual(expect.stringMatching(/./));
  if (leavesMark !== true) expect(picture(host.folder)).toBe(before);
}

const SIZES = { dataSizeBytes: 16 * MIB, metadataSizeBytes: 4 * MIB };

function devices(host: TestHost, data: string, metadata: string) {
  return { kind: "devices", data: host.path(data), metadata: host.path(metadata), ...SIZES } as const;
}

describe("names and numbers", () => {
  test("an unknown device or name", async () => {
    const host = await makeHost();
    await makePool(host);
    await refuses(host, () => host.deviceInfo("nope"), { code: "ENXIO", says: /no device 'nope'/ });
    await refuses(host, () => host.poolStatus("nope"), { code: "ENXIO", says: /no pool 'nope'/ });
    await refuses(host, () => host.deleteThin("nope"), { code: "ENXIO", says: /no thin device 'nope'/ });
    await refuses(host, () => host.deleteThin("pool:5"), { code: "ENODATA", says: /no device 5/ });
    await refuses(host, () => host.snapThin({ origin: "nope", name: "s" }), { code: "ENXIO" });
    await refuses(host, () => host.createThin({ pool: "nope", name: "s", sizeBytes: MIB }), { code: "ENXIO" });
    await refuses(host, () => host.detachLoop("7:9"), { code: "ENXIO", says: /7:9/ });
    await refuses(host, () => host.resume("nope"), { code: "ENXIO" });
    await refuses(host, () => host.readDevice("nope", process.stderr), { code: "ENXIO" });
  });

  test("a name in use, or one that cannot be", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: MIB });
    await host.createThin({ pool: "pool", name: "b", sizeBytes: MIB });
    await host.deactivateThin("b");
    const create = (name: string) => () => host.createThin({ pool: "pool", name, sizeBytes: MIB });
    await refuses(host, create("a"), { code: "EEXIST" });
    await refuses(host, create("b"), { code: "EEXIST", says: /thin device pool:1/ });
    await refuses(host, create("pool"), { code: "EEXIST" });
    await refuses(host, create("x/y"), { code: "EINVAL" });
    await refuses(host, create(""), { code: "EINVAL" });
    await refuses(host, create("n".repeat(128)), { code: "EINVAL", says: /128 bytes, at most 127/ });
    await refuses(host, () => host.renameThin("a", "b"), { code: "EEXIST" });
    await refuses(host, () => host.renameDevice("a", "pool"), { code: "EBUSY" });
    await refuses(host, () => host.createPool({ name: "a", source: devices(host, "d2", "m2") }), { code: "EEXIST" });
    expect(existsSync(host.path("d2"))).toBe(false);
  });

  test("numbers out of range", async () => {
    const host = await makeHost();
    await makePool(host);
    await refuses(host, () => host.createThin({ pool: "pool", name: "a", sizeBytes: MIB, id: 2 ** 24 }), {
      code: "EINVAL",
      says: /16777216/,
    });
    for (const sizeBytes of [0, 100, -512, 2 ** 60]) {
      await refuses(host, () => host.createThin({ pool: "pool", name: "a", sizeBytes }), { code: "EINVAL" });
    }
    for (const blockBytes of [32768, 65537, 100 * 1024, 2 ** 31]) {
      const request = { name: "p2", source: devices(host, "d2", "m2"), blockBytes };
      await refuses(host, () => host.createPool(request), { code: "EINVAL", says: /block size/ });
    }
    await refuses(host, () => host.resizePool({ name: "pool", metadata: { kind: "absolute", bytes: 2 ** 34 } }), {
      code: "EINVAL",
      says: /above the limit/,
    });
    await refuses(host, () => host.resizePool({ name: "pool", data: { kind: "absolute", bytes: MIB } }), {
      code: "EINVAL",
      says: /shrink/,
    });
    await refuses(host, () => host.poolMessage("pool", ["create_thin", "16777216"]), { code: "EINVAL" });
    await refuses(host, () => host.poolMessage("pool", ["bogus"]), { code: "EINVAL" });
    await refuses(host, () => host.setPool("pool", { autoextendThresholdPercent: 10 }), { code: "EINVAL" });
    await refuses(host, () => host.attachLoop({ file: host.path("x"), sizeBytes: MIB, sectorBytes: 1000 }), {
      code: "EINVAL",
    });
    await refuses(host, () => host.attachLoop({ file: host.path("nofile") }), {
      code: "ENOENT",
      says: /does not exist/,
    });
    await refuses(host, () => host.attachLoop({ file: host.folder }), { code: "EINVAL", says: /directory/ });
  });
});

describe("tables", () => {
  const table = (text: string) => ({ name: "p2", source: { kind: "table", table: text } as const });

  test("a table that does not parse, with gap or overlap, or whose devices are too small", async () => {
    const host = await makeHost();
    await host.attachLoop({ file: host.path("m"), sizeBytes: 4 * MIB });
    await host.attachLoop({ file: host.path("d"), sizeBytes: 16 * MIB });
    for (const text of ["garbage", "0 32768 thin-pool", "0 32768 thin-pool 7:0 7:1 128 0\n32768 8 zero", "0 8 zero"]) {
      await refuses(host, () => host.createPool(table(text)), { code: "EINVAL" });
    }
    await refuses(host, () => host.createPool(table("0 32769 thin-pool 7:0 7:1 128 0")), {
      code: "EINVAL",
      says: /loop1 too small for target: start=0, len=32769, dev_size=32768/,
    });
    await refuses(host, () => host.createPool(table("0 32768 thin-pool 7:0 7:9 128 0")), { code: "ENXIO" });
    await refuses(host, () => host.createPool(table("0 32768 thin-pool 7:0 7:0 128 0")), { code: "EINVAL" });
    await refuses(host, () => host.createPool(table("0 32768 thin-pool 7:0 loop0 128 0")), { code: "EINVAL" });
    const line = (startSectors: number) => ({ startSectors, lengthSectors: 8, type: "zero", args: [] });
    await refuses(host, () => host.loadTable("t", [line(0), line(16)]), { code: "EINVAL", says: /Gap/ });
    await refuses(host, () => host.loadTable("t", [line(0), line(4)]), { code: "EINVAL", says: /Overlap/ });
    await refuses(host, () => host.loadTable("t", []), { code: "EINVAL", says: /no targets/ });
  });

  test("a device that would stand on itself", async () => {
    const host = await makeHost();
    const line = (type: string, args: string[]) => [{ startSectors: 0, lengthSectors: 8, type, args }];
    await host.loadTable("a", line("zero", []));
    await host.resume("a");
    await host.loadTable("b", line("linear", ["a", "0"]));
    await host.resume("b");
    await refuses(host, () => host.loadTable("a", line("linear", ["b", "0"])), { code: "EINVAL", says: /itself/ });
  });

  test("suspend of a suspended device", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: MIB });
    await host.suspend("pool");
    await refuses(host, () => host.suspend("pool"), { code: "EBUSY", says: /suspended already/ });
    await refuses(host, () => write(host, "a", pattern(512, 1)), { code: "EBUSY", says: /'pool' is suspended/ });
    await refuses(host, () => host.createThin({ pool: "pool", name: "b", sizeBytes: MIB }), { code: "EBUSY" });
  });
});

describe("pools", () => {
  test("metadata that is neither zero nor dm-thin, of an unknown version, or with a wrong checksum", async () => {
    const host = await makeHost();
    writeFileSync(host.path("d"), Buffer.alloc(16 * MIB));
    writeFileSync(host.path("m"), pattern(4 * MIB, 3));
    const source = { kind: "devices", data: host.path("d"), metadata: host.path("m") } as const;
    const create = (format = false) => host.createPool({ name: "p", source, format });
    await refuses(host, create, { code: "ENOTBLK", says: /neither zeroed nor valid dm-thin/ });
    await create(true);
    await host.removePool("p");
    const good = readFileSync(host.path("m"));
    const flipped = Buffer.from(good);
    flipped[100]! ^= 1;
    writeFileSync(host.path("m"), flipped);
    await refuses(host, create, { code: "EILSEQ" });
    // A damaged pool is not overwritten either: it may be worth a repair.
    await refuses(host, () => create(true), { code: "EILSEQ" });
    writeFileSync(host.path("m"), good);
    await create();
  });

  test("another block size than the metadata has, less data than it says", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.removePool("pool");
    const source = {
      kind: "devices",
      data: host.path("pool-data.img"),
      metadata: host.path("pool-meta.img"),
    } as const;
    await refuses(host, () => host.createPool({ name: "p", source, blockBytes: 131072 }), {
      code: "EINVAL",
      says: /the table asks for 256/,
    });
    truncateSync(host.path("pool-data.img"), 32 * MIB);
    await refuses(host, () => host.createPool({ name: "p", source }), {
      code: "EINVAL",
      says: /too small: expected 1024/,
    });
    truncateSync(host.path("pool-data.img"), 64 * MIB);
    await host.createPool({ name: "p", source });
  });

  test("the same device for both roles, a device already claimed, a pool still in use", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: MIB });
    await refuses(host, () => host.createPool({ name: "p2", source: devices(host, "same", "same") }), {
      code: "EINVAL",
      says: /same device/,
    });
    const shared = {
      kind: "devices",
      data: host.path("d2"),
      metadata: host.path("pool-meta.img"),
      dataSizeBytes: MIB,
    } as const;
    await refuses(host, () => host.createPool({ name: "p2", source: shared }), {
      code: "EBUSY",
      says: /already in use by a pool/,
    });
    expect(existsSync(host.path("d2"))).toBe(false);
    await refuses(host, () => host.removePool("pool"), { code: "EBUSY", says: /in use by a/ });
    await refuses(host, () => host.detachLoop("7:0"), { code: "EBUSY", says: /in use by pool/ });
    await refuses(host, () => host.resizeLoop("7:1", MIB), { code: "EBUSY", says: /pool uses/ });
    await refuses(host, () => host.poolMessage("pool", ["delete", "0"]), { code: "EBUSY" });
    await refuses(host, () => host.activateThin("pool:0", "again"), { code: "EBUSY" });

    const elsewhere = await makeHost({ folder: host.path("elsewhere") });
    mkdirSync(elsewhere.folder);
    using _claim = new Claims().claim({ path: host.path("pool-meta.img"), role: "metadata of another pool" });
    await refuses(host, () => host.poolStatus("pool"), { code: "EBUSY", says: /pool-meta.img/ });
  });

  test("no folder for the files, no room for a block", async () => {
    const host = await makeHost();
    await refuses(host, () => host.createPool({ name: "p", source: devices(host, "no/d", "m") }), { code: "ENOENT" });
    const tiny = { ...devices(host, "d", "m"), dataSizeBytes: 4096 };
    await refuses(host, () => host.createPool({ name: "p", source: tiny }), { code: "EINVAL", says: /not one block/ });
    const noMetadata = { ...devices(host, "d", "m"), metadataSizeBytes: 16384 };
    await refuses(host, () => host.createPool({ name: "p", source: noMetadata }), { code: "ENOSPC", leavesMark: true });
    expect(await host.listLoops()).toEqual([]);
    expect(readdirSync(host.folder)).toEqual(["state"]);
  });
});

describe("bytes", () => {
  test("a write past the end", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: MIB });
    writeFileSync(host.path("large"), pattern(2 * MIB, 1));
    await refuses(host, () => host.importDevice("a", host.path("large")), {
      code: "ENOSPC",
      says: /ends at 1048576 bytes/,
    });
    await refuses(host, () => write(host, "a", pattern(512, 1), 2 * MIB), { code: "EINVAL", says: /ends at 1048576/ });
    await refuses(host, () => host.trimDevice("a", { offsetBytes: 0, lengthBytes: 2 * MIB }), { code: "EINVAL" });
    // How much comes through a pipe is not known before: what fits is written.
    const stream = Readable.from([pattern(MIB, 1), pattern(MIB, 2)]);
    await refuses(host, () => host.writeDevice("a", stream, { offsetBytes: 512 }), {
      code: "ENOSPC",
      says: /ends at 1048576 bytes/,
      leavesMark: true,
    });
  });

  test("a read-only device", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: MIB });
    await host.snapThin({ origin: "a", name: "s", readOnly: true });
    await refuses(host, () => write(host, "s", pattern(512, 1)), { code: "EROFS" });
    await refuses(host, () => host.trimDevice("s"), { code: "EROFS" });
  });

  test("a truncated data file", async () => {
    const host = await makeHost();
    await makePool(host);
    await host.createThin({ pool: "pool", name: "a", sizeBytes: MIB });
    truncateSync(host.path("pool-data.img"), MIB);
    await refuses(host, () => write(host, "a", pattern(512, 1)), { code: "EIO", says: /truncated/ });
  });
});

describe("the state file", () => {
  const state = (host: TestHost) => host.path("state/state.json");

  test("damaged, or from a newer version", async () => {
    const host = await makeHost();
    await makePool(host);
    const good = readFileSync(state(host), "utf8");
    for (const bad of [
      "",
      "{",
      good.slice(0, good.length / 2),
      good.replace('"minor"', '"monir"'),
      "[]",
      good.replace('"loops": [', '"loops": [7,'),
    ]) {
      writeFileSync(state(host), bad);
      await refuses(host, () => host.listDevices(), { code: "EUCLEAN", says: /state\.json is damaged/ });
      await refuses(host, () => host.createThin({ pool: "pool", name: "a", sizeBytes: MIB }), { code: "EUCLEAN" });
    }
    writeFileSync(state(host), good.replace('"version": 1', '"version": 2'));
    await refuses(host, () => host.listDevices(), { code: "EINVAL", says: /version 2/ });
    writeFileSync(state(host), good);
    expect(await host.listDevices()).toHaveLength(1);
  });

  test("lost: the copy before it is named, and nothing is begun anew over it", async () => {
    const host = await makeHost();
    await makePool(host);
    const { rmSync } = await import("node:fs");
    rmSync(state(host));
    await refuses(host, () => host.listDevices(), { code: "EUCLEAN", says: /missing/ });
  });

  test("locked by somebody else", async () => {
    const host = await makeHost({ lockTimeoutMs: 0 });
    await makePool(host);
    const { tryLockFile } = await import("../../src/io/index.js");
    using _lock = tryLockFile(host.path("state/lock"), { purpose: "the test" })!;
    await refuses(host, () => host.removePool("pool"), { code: "EBUSY", says: /locked by/ });
    expect(await host.listDevices()).toHaveLength(1);
  });
});
