import { describe, expect, test } from "vitest";
import type { MapRun, PoolMap } from "../../src/host/index.js";
import { answeringHost, runMain } from "./run-main.js";

const RUN: MapRun = {
  virtualBlock: 0x44f,
  dataBlock: 0xf33,
  count: 1,
  time: 3,
  sharers: [
    { id: 0, name: "base", virtualBlock: 0x44f },
    { id: 7, name: undefined, virtualBlock: 0x44f },
  ],
  held: true,
  writer: { id: 0, name: "base" },
  path: [
    { tree: "devices", metadataBlock: 5, entry: 0 },
    { tree: "mappings", metadataBlock: 7, entry: 12 },
  ],
};

describe("udm thin map of a block", () => {
  const asked: unknown[] = [];
  const openHost = answeringHost({
    thinMap: async (name, block) => {
      asked.push([name, block]);
      return block === 1 ? [] : [block === 2 ? { ...RUN, writer: undefined, held: false } : RUN];
    },
  });
  const lines = async (...words: readonly string[]) =>
    (await runMain(["thin", "map", "vol", ...words], { openHost })).stdout.split("\n");

  test("takes hexadecimal and decimal, and tells writer and sharers", async () => {
    const told = [
      "0x44f -> 0xf33 time 3",
      "written by: base",
      "mapped by: base@0x44f 7@0x44f, held by the metadata snapshot",
      "",
    ];
    expect(await lines("0x44f")).toEqual(told);
    expect(await lines("1103")).toEqual(told);
    expect(asked).toEqual([
      ["vol", 0x44f],
      ["vol", 0x44f],
    ]);
  });

  test("shows the way through the btrees with -v", async () => {
    expect((await lines("0x44f", "-v"))[3]).toBe("path: devices:5[0] > mappings:7[12]");
  });

  test("says so where nothing is mapped, or the writer is not known", async () => {
    expect(await lines("1")).toEqual(["0x1 -> not mapped", ""]);
    expect((await lines("2"))[1]).toBe("written by: unknown");
    expect((await lines("2"))[2]).toBe("mapped by: base@0x44f 7@0x44f");
  });

  test("gives all of it in JSON", async () => {
    const { stdout } = await runMain(["thin", "map", "vol", "0x44f", "--json"], { openHost });
    expect(JSON.parse(stdout).runs).toEqual([
      {
        virtualBlock: 0x44f,
        dataBlock: 0xf33,
        count: 1,
        time: 3,
        sharers: ["base@0x44f", "7@0x44f"],
        writer: "base",
        held: true,
        path: ["devices:5[0]", "mappings:7[12]"],
      },
    ]);
  });
});

describe("udm pool map", () => {
  const map: PoolMap = {
    totalBlocks: 64,
    blockBytes: 65_536,
    runs: [
      { dataBlock: 0, count: 16, mappings: 1, held: false },
      { dataBlock: 16, count: 8, mappings: 2, held: true },
      { dataBlock: 40, count: 4, mappings: 0, held: true },
    ],
  };
  const openHost = answeringHost({ poolMap: async () => map });

  test("draws every kind of stretch and explains the signs with their bytes", async () => {
    expect((await runMain(["pool", "map", "p"], { openHost })).stdout).toBe(
      [
        ` 0 ${"#".repeat(16)}${"%".repeat(8)}${".".repeat(16)}oooo${".".repeat(20)}`,
        "each sign 1 block (64K):  . free 2.3M  -+*# exclusive 1M  % shared 512K",
        "o held 256K",
        "",
      ].join("\n"),
    );
  });

  test("uses the locale's signs", async () => {
    const ran = await runMain(["pool", "map", "p"], { openHost, environment: { LC_ALL: "C.UTF-8" } });
    expect(ran.stdout).toContain("· free 2.3M  ░▒▓█ exclusive 1M  ◆ shared 512K");
    expect(ran.stdout).toContain("○ held 256K");
  });
});
