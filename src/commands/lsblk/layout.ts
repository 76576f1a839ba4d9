/** lsblk's table: columns as wide as their widest cell, rows of several lines, the last column without padding. */
import { displayWidth } from "./words.js";

export interface LayoutColumn {
  readonly heading: string;
  readonly isRight: boolean;
  /** Taken once a value is as wide as the heading. */
  readonly leastWidth?: number;
}

export interface LayoutRow {
  /** Lines of each cell. */
  readonly cells: readonly (readonly string[])[];
  /** Before the tree column's first line, and before the others. */
  readonly first: string;
  readonly further: string;
}

export interface LayoutOptions {
  readonly headings: boolean;
  /** Index of the column with the tree, or -1. */
  readonly treeColumn: number;
  /** Before the heading of the tree column. */
  readonly indent: string;
}

export function layOut(
  columns: readonly LayoutColumn[],
  rows: readonly LayoutRow[],
  options: LayoutOptions,
): readonly string[] {
  const last = columns.length - 1;
  const widths = columns.map((column, index) => columnWidth(column, index, rows, options));
  const padded = (text: string, index: number, isRight: boolean) => {
    const blanks = " ".repeat(Math.max(0, widths[index]! - displayWidth(text)));
    if (isRight) return blanks + text;
    return index === last ? text : text + blanks;
  };
  const lines: string[] = [];
  if (options.headings) {
    lines.push(
      columns
        .map(({ heading, isRight }, index) =>
          padded(index === options.treeColumn ? options.indent + heading : heading, index, isRight),
        )
        .join(" "),
    );
  }
  for (const row of rows) {
    const height = Math.max(1, ...row.cells.map((cell) => cell.length));
    for (let at = 0; at < height; at++) {
      const words = columns.map(({ isRight }, index) => {
        const text = row.cells[index]![at] ?? "";
        if (index === options.treeColumn) return padded((at === 0 ? row.first : row.further) + text, index, false);
        if (at > 0 && text === "" && index === last) return "";
        return padded(text, index, isRight);
      });
      lines.push(words.join(" "));
    }
  }
  return lines;
}

function columnWidth(column: LayoutColumn, index: number, rows: readonly LayoutRow[], options: LayoutOptions): number {
  const isTree = index === options.treeColumn;
  // The heading counts whether it is printed or not.
  const least = displayWidth(column.heading) + (isTree ? options.indent.length : 0);
  let widest = 0;
  for (const row of rows) {
    const before = isTree ? displayWidth(row.first) : 0;
    for (const line of row.cells[index]!) widest = Math.max(widest, before + displayWidth(line));
  }
  if (widest < least) return least;
  const wanted = column.leastWidth ?? 0;
  return widest < wanted && least < wanted ? wanted : widest;
}
