/**
 * Reports without borders, as lsblk and LVM print them: one blank between columns, numbers to the right, and the last
 * column not padded when it is text, so that a line ends where its value does.
 */

export interface TableColumn {
  readonly heading: string;
  readonly align: "left" | "right";
  /** Width taken as soon as a value is as wide as the heading; lsblk's SIZE is 5. */
  readonly widthHint?: number;
}

export interface TableOptions {
  readonly headings: boolean;
}

/** @returns lines without newline; none when there are no rows. */
export async function renderTable(
  columns: readonly TableColumn[],
  rows: readonly (readonly string[])[],
  options: TableOptions,
): Promise<readonly string[]> {
  if (rows.length === 0 || columns.length === 0) return [];
  // A column is never narrower than its heading, printed or not.
  const all = [columns.map((column) => column.heading), ...rows];
  const lines = await renderLines(columns, rows, all);
  return options.headings ? lines : lines.slice(1);
}

async function renderLines(
  columns: readonly TableColumn[],
  rows: readonly (readonly string[])[],
  all: readonly (readonly string[])[],
): Promise<readonly string[]> {
  const last = columns.length - 1;
  const isTextLast = columns[last]!.align === "left";
  const laidOut = isTextLast ? columns.slice(0, last) : columns;
  if (laidOut.length === 0) return all.map((row) => row[0] ?? "");
  const lines = await layOut(
    laidOut,
    all.map((row) => row.slice(0, laidOut.length).map((cell, index) => hinted(cell, columns[index]!, rows, index))),
  );
  return isTextLast ? lines.map((line, index) => `${line} ${all[index]![last] ?? ""}`) : lines;
}

/** Widens a column to its hint by its first cell. The rule is libsmartcols': not while all values are narrower than the heading. */
function hinted(cell: string, column: TableColumn, rows: readonly (readonly string[])[], index: number): string {
  const hint = column.widthHint;
  if (hint === undefined) return cell;
  const widest = Math.max(0, ...rows.map((row) => row[index]?.length ?? 0));
  return widest >= column.heading.length && widest < hint ? cell.padStart(hint) : cell;
}

/** One column of the screen each: nothing has to be measured, and listings of thousands of rows come at once. */
const PRINTABLE_ASCII = /^[\x20-\x7e]*$/;

function layOutAscii(columns: readonly TableColumn[], rows: readonly (readonly string[])[]): readonly string[] {
  const widths = columns.map((_, index) => rows.reduce((most, row) => Math.max(most, row[index]!.length), 0));
  return rows.map((row) =>
    row
      .map((cell, index) =>
        columns[index]!.align === "left" ? cell.padEnd(widths[index]!) : cell.padStart(widths[index]!),
      )
      .join(" "),
  );
}

async function layOut(
  columns: readonly TableColumn[],
  rows: readonly (readonly string[])[],
): Promise<readonly string[]> {
  if (rows.every((row) => row.every((cell) => PRINTABLE_ASCII.test(cell)))) return layOutAscii(columns, rows);
  const { default: Table } = await import("cli-table3");
  const none = { top: "", "top-mid": "", "top-left": "", "top-right": "" };
  const bottom = { bottom: "", "bottom-mid": "", "bottom-left": "", "bottom-right": "" };
  const middle = { mid: "", "left-mid": "", "mid-mid": "", "right-mid": "", left: "", right: "", middle: " " };
  const table = new Table({
    chars: { ...none, ...bottom, ...middle },
    style: { "padding-left": 0, "padding-right": 0, head: [], border: [], compact: true },
    colAligns: columns.map((column) => column.align),
  });
  for (const row of rows) table.push([...row]);
  return table.toString().split("\n");
}
