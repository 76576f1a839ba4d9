import { PassThrough } from "node:stream";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  askYesNo,
  barLine,
  drawPicture,
  editDistance,
  formatDecimalSize,
  formatPercent,
  isUtf8Locale,
  nearestWord,
  paletteFor,
  progressBar,
  wrapParts,
} from "../../src/ui/index.js";

describe("sizes", () => {
  // Source: the specification of docker info's figures, human sizes.
  test.each([
    [0, "0B"],
    [65536, "65.54kB"],
    [107374182400, "107.4GB"],
    [524288, "524.3kB"],
    [2147483648, "2.147GB"],
    [999999, "1000kB"],
    [1073741824, "1.074GB"],
    [1000000, "1MB"],
    [51314688, "51.31MB"],
    [67108864, "67.11MB"],
  ])("%d bytes are %s to docker", (bytes, text) => expect(formatDecimalSize(bytes)).toBe(text));

  test("a share of nothing is 0", () => expect(formatPercent(0, 0)).toBe("0.00"));
});

describe("locale", () => {
  test.each([
    [{ LC_ALL: "C", LANG: "de_DE.UTF-8" }, false],
    [{ LC_ALL: "", LC_CTYPE: "C.UTF-8" }, true],
    [{ LANG: "en_US.utf8" }, true],
    [{}, false],
  ])("%j", (environment, isUtf8) => expect(isUtf8Locale(environment)).toBe(isUtf8));
});

describe("suggestions", () => {
  test.each([
    ["crate", "create"],
    ["lits", "list"],
    ["stat", "status"],
    ["zzzzz", undefined],
  ])("%s: %s", (word, nearest) => expect(nearestWord(word, ["create", "list", "status", "resize"])).toBe(nearest));

  test("the distance is symmetric and 0 only for the same word", () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 8 }), fc.string({ maxLength: 8 }), (left, right) => {
        expect(editDistance(left, right)).toBe(editDistance(right, left));
        expect(editDistance(left, right) === 0).toBe(left === right);
      }),
    );
  });
});

describe("progress", () => {
  const state = { label: "import base", doneBytes: 2 ** 29, totalBytes: 2 ** 30, elapsedMs: 1000, isUtf8: false };

  test("the bar tells share, bytes, rate and time left", () => {
    expect(barLine({ ...state, width: 80 })).toBe(
      `import base [${"#".repeat(19)}${".".repeat(18)}]  50% 512M/1G 512M/s 1s left`,
    );
  });

  test("where nobody knows how much there is, it tells how far it came", () => {
    expect(barLine({ ...state, totalBytes: 0, width: 80 })).toBe("import base 512M 512M/s");
    expect(barLine({ ...state, totalBytes: 0, width: 9 })).toBe("import b");
  });

  test("it is never wider than the screen", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 200 }), fc.nat(2 ** 40), (width, doneBytes) => {
        const line = barLine({ ...state, doneBytes, totalBytes: 2 ** 40, width });
        expect(line.length).toBeLessThanOrEqual(Math.max(width - 1, 0));
      }),
    );
  });

  test("where there is no terminal nothing is written", () => {
    const written: string[] = [];
    const bar = progressBar({ write: (text) => written.push(text) }, { label: "x", now: () => 0, isUtf8: false });
    bar.update(1, 2);
    bar.finish();
    expect(written).toEqual([]);
  });

  test("on a terminal it is drawn a few times a second and taken away", () => {
    const written: string[] = [];
    let clock = 0;
    const screen = { isTTY: true, columns: 80, write: (text: string) => written.push(text) };
    const bar = progressBar(screen, { label: "x", now: () => clock, isUtf8: true });
    for (; clock < 250; clock++) bar.update(clock, 1000);
    bar.finish();
    expect(written).toHaveLength(4);
    expect(written.at(-1)).toBe("\r\u001b[K");
  });
});

describe("colour", () => {
  test.each([
    [{ isTTY: false }, {}, false],
    [{ isTTY: true }, {}, true],
    [{ isTTY: true }, { NO_COLOR: "1" }, false],
    [{ isTTY: true }, { TERM: "dumb" }, false],
  ])("stream %j with %j: %s", async (stream, environment, isColoured) => {
    const palette = await paletteFor(stream, environment);
    expect(palette.error("x") !== "x").toBe(isColoured);
  });
});

describe("questions", () => {
  test.each([
    ["y\n", true],
    ["YES\n", true],
    ["\n", false],
    ["no\n", false],
    ["", false],
  ])("%j", async (typed, isYes) => {
    const input = new PassThrough();
    const output = new PassThrough();
    const answer = askYesNo({ input, output }, "delete it?");
    input.end(typed);
    expect(await answer).toBe(isYes);
    expect(output.read().toString()).toBe("delete it? [y/N] ");
  });
});

describe("picture of a data device", () => {
  test("free, exclusive, shared and held stretches differ", () => {
    const runs = [
      { dataBlock: 1, count: 2, mappings: 1 },
      { dataBlock: 5, count: 1, mappings: 3 },
      { dataBlock: 7, count: 1, mappings: 0 },
    ];
    const picture = drawPicture(8, runs, { isUtf8: false });
    expect(picture.lines).toEqual(["0 .##..%.o"]);
    expect(picture.blocksPerCell).toBe(1);
    expect(drawPicture(8, runs, { isUtf8: true }).lines).toEqual(["0 ·██··◆·○"]);
    const { freeBlocks, exclusiveBlocks, sharedBlocks, heldBlocks } = picture;
    expect([freeBlocks, exclusiveBlocks, sharedBlocks, heldBlocks]).toEqual([4, 2, 1, 1]);
  });

  test("a stretch shows what it mostly is", () => {
    const cell = (exclusive: number, shared: number, held: number): string | undefined => {
      const runs = [
        { dataBlock: 0, count: exclusive, mappings: 1 },
        { dataBlock: exclusive, count: shared, mappings: 2 },
        { dataBlock: exclusive + shared, count: held, mappings: 0 },
      ];
      // 160 blocks on 16 lines of one cell.
      return drawPicture(160, runs, { isUtf8: false, columns: 5 }).lines[0]?.at(-1);
    };
    expect([cell(0, 0, 0), cell(1, 0, 0), cell(3, 0, 0), cell(5, 0, 0), cell(8, 0, 0), cell(10, 0, 0)].join("")).toBe(
      ".--+*#",
    );
    expect([cell(6, 4, 0), cell(5, 5, 0), cell(4, 2, 4), cell(1, 0, 1)].join("")).toBe("#%#o");
  });

  test("it fits the screen in at most 16 lines, and every used block shows", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 10_000_000 }),
        fc.nat(),
        fc.integer({ min: 20, max: 300 }),
        fc.nat(2),
        (totalBlocks, seed, columns, mappings) => {
          const run = { dataBlock: seed % totalBlocks, count: 1, mappings };
          const { lines, blocksPerCell } = drawPicture(totalBlocks, [run], { isUtf8: false, columns });
          expect(lines.length).toBeLessThanOrEqual(16);
          for (const line of lines) expect(line.length).toBeLessThanOrEqual(columns);
          const cells = lines.map((line) => line.trim().split(" ")[1]).join("");
          expect(cells).toHaveLength(Math.ceil(totalBlocks / blocksPerCell));
          expect(cells[Math.floor(run.dataBlock / blocksPerCell)]).not.toBe(".");
          expect(cells.replaceAll(".", "")).toHaveLength(1);
        },
      ),
      { numRuns: 100 },
    );
  });

  test("a legend breaks between its parts", () => {
    expect(wrapParts(["aaa", "bb", "c"], "  ", 7)).toEqual(["aaa  bb", "c"]);
    expect(wrapParts(["too long", "b"], " ", 3)).toEqual(["too long", "b"]);
  });
});
