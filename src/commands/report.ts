/** Listings: columns declared once give the table, --json, -o, --sort and the manual. */
import { UsageError } from "../errors/index.js";
import { nearestWord, renderTable } from "../ui/index.js";
import { formatBytes, type Unit } from "../units/index.js";
import type { Context } from "./context.js";

export type CellValue = string | number | boolean | readonly string[] | undefined;

export interface Column<Row> {
  readonly heading: string;
  /** Key in JSON. */
  readonly key: string;
  /** `bytes` follows --units; `number` and `percent` go to the right. */
  readonly kind: "text" | "number" | "bytes" | "percent" | "flag" | "list";
  /** Printed only when asked for. */
  readonly isExtra?: boolean;
  /** Null in JSON, `-` in text. */
  readonly mayBeUnknown?: boolean;
  readonly value: (row: Row) => CellValue;
  readonly widthHint?: number;
}

export interface Report<Row> {
  /** Key of the array in JSON: `pools`. */
  readonly noun: string;
  readonly columns: readonly Column<Row>[];
  readonly rows: readonly Row[];
  /** Unit of sizes unless --units is given. */
  readonly unit?: Unit;
}

export async function printReport<Row>(context: Context, report: Report<Row>): Promise<void> {
  const { globals } = context;
  const rows = sortRows(report.columns, report.rows, globals.sort);
  const columns = chooseColumns(report.columns, globals.output);
  if (globals.json) {
    const shown = globals.output === undefined ? report.columns : columns;
    context.json({
      [report.noun]: rows.map((row) =>
        Object.fromEntries(shown.map((column) => [column.key, column.value(row) ?? null])),
      ),
    });
    return;
  }
  const unit = globals.units ?? report.unit ?? "h";
  const lines = await renderTable(
    columns.map((column) => ({
      heading: column.heading,
      align: isRightAligned(column.kind) ? "right" : "left",
      ...(column.widthHint === undefined ? {} : { widthHint: column.widthHint }),
    })),
    rows.map((row) => columns.map((column) => cellText(column.kind, column.value(row), unit))),
    { headings: globals.headings },
  );
  context.lines(lines);
}

export function isRightAligned(kind: Column<unknown>["kind"]): boolean {
  return kind === "number" || kind === "bytes" || kind === "percent" || kind === "flag";
}

/** A value as text; what is not known is `-`, so that a line always has the same number of words. */
export function cellText(kind: Column<unknown>["kind"], value: CellValue, unit: Unit): string {
  if (value === undefined || value === "") return "-";
  if (typeof value === "boolean") return value ? "1" : "0";
  if (typeof value === "number") {
    if (kind === "bytes") return formatBytes(value, unit);
    return kind === "percent" ? value.toFixed(2) : String(value);
  }
  if (typeof value === "string") return value;
  return value.length === 0 ? "-" : value.join(",");
}

/** The usual columns, those named, or the usual ones and those behind a `+`. */
export function chooseColumns<C extends { readonly heading: string; readonly isExtra?: boolean }>(
  columns: readonly C[],
  choice: string | undefined,
): readonly C[] {
  const usual = columns.filter((column) => column.isExtra !== true);
  if (choice === undefined) return usual;
  const isAdding = choice.startsWith("+");
  const names = (isAdding ? choice.slice(1) : choice).split(",").filter((name) => name !== "");
  if (names.length === 0) throw new UsageError("no columns are named", { hint: columnsHint(columns) });
  const chosen = names.map((name) => findColumn(columns, name));
  return isAdding ? [...usual, ...chosen.filter((column) => !usual.includes(column))] : chosen;
}

function findColumn<C extends { readonly heading: string }>(columns: readonly C[], name: string): C {
  const wanted = name.trim().toUpperCase();
  const found = columns.find((column) => column.heading === wanted);
  if (found !== undefined) return found;
  const near = nearestWord(
    wanted,
    columns.map((column) => column.heading),
  );
  const suggestion = near === undefined ? "" : `did you mean ${near}? `;
  throw new UsageError(`unknown column: ${name}`, { hint: `${suggestion}${columnsHint(columns)}` });
}

function columnsHint(columns: readonly { readonly heading: string }[]): string {
  return `columns: ${columns.map((column) => column.heading).join(" ")}`;
}

function sortRows<Row>(columns: readonly Column<Row>[], rows: readonly Row[], sort: string | undefined) {
  if (sort === undefined) return rows;
  const isDescending = sort.startsWith("-");
  const column = findColumn(columns, isDescending ? sort.slice(1) : sort);
  const sign = isDescending ? -1 : 1;
  return [...rows].sort((left, right) => sign * compareValues(column.value(left), column.value(right)));
}

/** Numbers as numbers, text by code unit, unknown first. */
export function compareValues(left: CellValue, right: CellValue): number {
  if (left === undefined || right === undefined) return Number(left !== undefined) - Number(right !== undefined);
  if (typeof left === "string" || typeof left === "object") {
    const [a, b] = [String(left), String(right)];
    return a < b ? -1 : a > b ? 1 : 0;
  }
  return Number(left) - Number(right);
}
