/** The shapes of --json: one document on standard output, sizes in bytes, the same keys whatever the state. */
import { expect, test } from "vitest";
import { type Session, withSession } from "./session.js";

async function json(session: Session, line: string): Promise<Record<string, unknown>> {
  return JSON.parse(await session.ok(`${line} --json`));
}

test("every report has its shape", async () => {
  await withSession(async (session) => {
    expect(await json(session, "loop attach meta.img --size 16m")).toMatchObject({
      loop: { number: 0, dev: "7:0", sizeBytes: 16 * 2 ** 20, readOnly: false, usedBy: [] },
    });
    await session.ok("loop attach data.img --size 1g");
    const table = "0 2097152 thin-pool 7:0 7:1 128 0";
    expect(JSON.parse(await session.ok(["--json", "pool", "create", "pool", "--table", table]))).toEqual({
      pool: { name: "pool", formatted: true, thinIds: [] },
    });
    expect(await json(session, "thin create pool vol --size 64m")).toEqual({ ok: true });
    await session.ok("thin write vol", { input: Buffer.alloc(200_000, 7) });
    await session.ok("thin snap vol snap");
    await session.ok("thin write snap --offset 64k", { input: Buffer.alloc(65536, 8) });

    expect(await json(session, "pool status")).toMatchObject({
      pools: [
        {
          name: "pool",
          state: "ACTIVE",
          mode: "write",
          size: 2 ** 30,
          used: 5 * 65536,
          metadataSize: 16 * 2 ** 20,
          thinCount: 2,
          activeCount: 2,
          blockSize: 65536,
          heldRoot: null,
          needsCheck: false,
          features: [],
          dataDevice: "7:1",
          metadataDevice: "7:0",
          raw: expect.stringMatching(/^0 2097152 thin-pool 0 \d+\/4096 5\/16384 - rw /),
        },
      ],
    });
    expect(await json(session, "pool list")).toEqual({ pools: [{ name: "pool", state: "ACTIVE" }] });
    expect(await json(session, "pool check pool")).toMatchObject({ check: { pool: "pool", verdict: "OK", status: 0 } });
    expect(await json(session, "pool map pool")).toMatchObject({
      map: {
        totalBlocks: 16384,
        blockBytes: 65536,
        runs: expect.arrayContaining([expect.objectContaining({ mappings: 2 })]),
      },
    });
    const { thins } = await json(session, "thin list");
    expect(thins).toMatchObject([
      {
        name: "vol",
        pool: "pool",
        id: 0,
        size: 64 * 2 ** 20,
        mapped: 4 * 65536,
        exclusive: 65536,
        shared: 3 * 65536,
        origin: null,
        active: true,
      },
      {
        name: "snap",
        pool: "pool",
        id: 1,
        mapped: 4 * 65536,
        exclusive: 65536,
        shared: 3 * 65536,
        origin: "vol",
        active: true,
      },
    ]);
    expect(await json(session, "thin usage vol snap")).toEqual({
      usage: [{ mapped: 5 * 65536, exclusive: 5 * 65536, shared: 0, freedIfDeleted: 5 * 65536 }],
    });
    expect(await json(session, "thin map vol")).toEqual({
      runs: [{ virtualBlock: 0, dataBlock: 0, count: 4, time: 0 }],
    });
    expect(await json(session, "thin map snap 0x1")).toMatchObject({
      runs: [{ virtualBlock: 1, dataBlock: 4, count: 1, time: 1, sharers: ["snap@0x1"] }],
    });
    expect(await json(session, "thin diff vol snap")).toEqual({
      extents: [{ offset: 65536, length: 65536, kind: "differ" }],
    });
    expect(await json(session, "table show pool")).toEqual({
      targets: [
        { device: "pool", startSectors: 0, lengthSectors: 2097152, type: "thin-pool", params: "7:0 7:1 128 0 0 " },
      ],
    });
    expect(await json(session, "device list")).toMatchObject({
      devices: [
        { name: "pool", device: "253:0", openCount: 2, segments: 1, readOnly: false, deps: ["7:1", "7:0"] },
        { name: "snap", device: "253:2", deps: ["253:0"] },
        { name: "vol", device: "253:1", deps: ["253:0"] },
      ],
    });
    expect(await json(session, "device deps vol")).toEqual({ deps: ["253:0"] });
    expect(await json(session, "loop list 7:1")).toMatchObject({
      loops: [{ name: "loop1", device: "7:1", size: 2 ** 30, backFile: session.path("data.img"), usedBy: ["pool"] }],
    });
    expect(await json(session, "lsblk loop1")).toMatchObject({
      blockdevices: [
        { name: "loop1", size: 2 ** 30, children: [{ name: "pool", children: [{ name: "vol" }, { name: "snap" }] }] },
      ],
    });
    expect(await json(session, "pool resize pool +1g")).toEqual({
      resized: {
        dataBytesBefore: 2 ** 30,
        dataBytesAfter: 2 ** 31,
        metadataBytesBefore: 16 * 2 ** 20,
        metadataBytesAfter: 16 * 2 ** 20,
      },
    });
    expect(await json(session, "thin trim vol --offset 0 --length 64k -y")).toEqual({
      trimmed: { trimmedBytes: 65536 },
    });
    expect(await json(session, "thin export vol out.img --verify")).toMatchObject({
      exported: { bytes: 64 * 2 ** 20, verified: true },
    });
    expect(await json(session, "table save")).toMatchObject({ tables: expect.stringMatching(/^pool,,0,rw,/) });
  });
});
