import { describe, expect, test } from "vitest";
import { MIB, makeHost, makePool, pattern, read, type TestHost, write } from "./make-host.js";

const BLOCK = 65_536;

async function withOriginAndSnapshot(): Promise<TestHost> {
  const host = await makeHost();
  await makePool(host);
  await host.createThin({ pool: "pool", name: "vol", sizeBytes: 8 * MIB });
  await write(host, "vol", pattern(10 * BLOCK, 1));
  await host.snapThin({ origin: "vol", name: "snap" });
  await write(host, "vol", pattern(3 * BLOCK, 2));
  return host;
}

describe("what deleting frees", () => {
  test("is what is exclusive, until the metadata snapshot holds it", async () => {
    await using host = closing(await withOriginAndSnapshot());
    const columns = async () =>
      (await host.listThins()).map((thin) => [
        thin.exclusiveBytes! / BLOCK,
        thin.sharedBytes! / BLOCK,
        thin.freedIfDeletedBytes! / BLOCK,
      ]);
    expect(await columns()).toEqual([
      [3, 7, 3],
      [3, 7, 3],
    ]);
    await host.poolMessage("pool", ["reserve_metadata_snap"]);
    await write(host, "vol", pattern(BLOCK, 3), 4 * BLOCK);
    expect(await columns()).toEqual([
      [4, 6, 1],
      [4, 6, 0],
    ]);
    expect(await host.thinUsage(["vol", "snap"])).toEqual({
      exclusiveBytes: 14 * BLOCK,
      sharedBytes: 0,
      freedIfDeletedBytes: BLOCK,
      mappedBytes: 14 * BLOCK,
    });
    const used = async () => (await host.poolStatus("pool")).status.usedDataBlocks;
    const before = await used();
    await host.deleteThin("snap");
    await host.deleteThin("vol");
    expect(before - (await used())).toBe(1);
    expect((await host.poolMap("pool")).runs).toEqual([{ dataBlock: 0, count: 13, mappings: 0, held: true }]);
  });
});

describe("thin map of one block", () => {
  test("names the writer though it mapped another block since", async () => {
    await using host = closing(await withOriginAndSnapshot());
    const [run] = await host.thinMap("snap", 1);
    expect(run).toMatchObject({ time: 0, writer: { id: 0, name: "vol" }, held: false });
    expect(run!.sharers).toEqual([{ id: 1, name: "snap", virtualBlock: 1 }]);
    await host.snapThin({ origin: "vol", name: "later" });
    expect((await host.thinMap("snap", 1))[0]!.writer).toBeUndefined();
    expect(await host.thinMap("snap", 100)).toEqual([]);
  });
});

describe("thin diff", () => {
  test("covers exactly the blocks whose bytes differ", async () => {
    await using host = closing(await withOriginAndSnapshot());
    const [left, right] = [await read(host, "vol"), await read(host, "snap")];
    const extents = await host.thinDiff("vol", "snap");
    expect(extents).toEqual([{ offsetBytes: 0, lengthBytes: 3 * BLOCK, kind: "differ" }]);
    expect(left.subarray(0, 3 * BLOCK).equals(right.subarray(0, 3 * BLOCK))).toBe(false);
    expect(left.subarray(3 * BLOCK).equals(right.subarray(3 * BLOCK))).toBe(true);
  });

  test("refuses devices whose external origins differ: their holes do", async () => {
    await using host = closing(await makeHost());
    await makePool(host);
    for (const name of ["one", "two"]) {
      const table = [{ startSectors: 0, lengthSectors: 2048, type: "zero", args: [] }];
      await host.loadTable(name, table);
      await host.resume(name);
      await host.createThin({ pool: "pool", name: `on-${name}`, sizeBytes: MIB, externalOrigin: name });
    }
    await host.createThin({ pool: "pool", name: "plain", sizeBytes: MIB });
    await expect(host.thinDiff("on-one", "on-two")).rejects.toMatchObject({
      code: "EINVAL",
      message: expect.stringContaining("different external origins"),
    });
    await expect(host.thinDiff("plain", "on-two")).rejects.toMatchObject({
      message: expect.stringContaining("'plain' has none"),
    });
    await host.snapThin({ origin: "on-one", name: "snap-one" });
    await write(host, "on-one", pattern(BLOCK, 1));
    expect(await host.thinDiff("on-one", "snap-one")).toEqual([
      { offsetBytes: 0, lengthBytes: BLOCK, kind: "left-only" },
    ]);
    await host.deactivateThin("on-two");
    await expect(host.thinDiff("on-one", "on-two")).rejects.toMatchObject({ code: "EINVAL" });
  });
});

function closing(host: TestHost): TestHost & AsyncDisposable {
  return Object.assign(host, { [Symbol.asyncDispose]: () => host.close() });
}
