import fc from "fast-check";
import { expect, test } from "vitest";
import { renderTable } from "../../src/ui/index.js";

const COLUMNS = [
  { heading: "NAME", align: "left" },
  { heading: "SIZE", align: "right", widthHint: 5 },
  { heading: "NOTE", align: "left" },
] as const;

test("numbers stand to the right, and a last column of text is not padded", async () => {
  const lines = await renderTable(
    COLUMNS,
    [
      ["a", "128M", "x"],
      ["longer", "4K", ""],
    ],
    { headings: true },
  );
  expect(lines).toEqual(["NAME    SIZE NOTE", "a       128M x", "longer    4K "]);
});

test("a hint widens a column only when a value is as wide as the heading", async () => {
  const [narrow] = await renderTable(COLUMNS, [["a", "64M", ""]], { headings: true });
  expect(narrow).toBe("NAME SIZE NOTE");
});

test("without rows nothing is printed, no headings either", async () => {
  expect(await renderTable(COLUMNS, [], { headings: true })).toEqual([]);
});

test("a column is as wide as its heading even when that is not printed", async () => {
  expect(await renderTable(COLUMNS, [["a", "1", "x"]], { headings: false })).toEqual(["a       1 x"]);
});

test("rows look the same beside one that is not ASCII, and whatever their number", async () => {
  const columns = [
    { heading: "NAME", align: "left" },
    { heading: "SIZE", align: "right" },
    { heading: "FLAG", align: "right" },
  ] as const;
  const cell = fc.stringMatching(/^[!-~]{0,9}$/);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(cell, cell, cell), { minLength: 1, maxLength: 12 }), async (rows) => {
      const alone = await renderTable(columns, rows, { headings: true });
      const beside = await renderTable(columns, [...rows, ["\u00e9", "1", ""]], { headings: true });
      expect(beside.slice(0, -1)).toEqual(alone);
    }),
  );
});

test("a wide character takes two columns", async () => {
  const lines = await renderTable(
    COLUMNS,
    [
      ["\u6c60", "1", "x"],
      ["abcdef", "2", "y"],
    ],
    { headings: false },
  );
  expect(lines).toEqual(["\u6c60        1 x", "abcdef    2 y"]);
});
