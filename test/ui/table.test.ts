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
