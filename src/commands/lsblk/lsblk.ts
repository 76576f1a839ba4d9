/**
 * `udm lsblk`: the tree that lsblk prints, over udm's loop and mapped devices and the machine's block devices. Options,
 * columns, widths, order and JSON are util-linux' own; the captured outputs are the measure.
 */
import { Command, Option } from "commander";
import { StateError, UsageError } from "../../errors/index.js";
import type { BlockNode } from "../../host/index.js";
import { formatBytes, type Unit } from "../../units/index.js";
import type { Context } from "../context.js";
import { chooseColumns, compareValues } from "../report.js";
import { LSBLK_COLUMNS, LSBLK_SETS, type LsblkColumn, type LsblkValue } from "./columns.js";
import { BlockForest, byDeviceNumber, deviceNumbers } from "./forest.js";
import { lsblkJson } from "./json.js";
import { layOut } from "./layout.js";
import { drawLines, drawMerged, type Entry, flatten, makeEntries, mergedEntries, type TreeLine } from "./tree.js";
import { quotedText, rawWord, shellName, tableText } from "./words.js";

interface LsblkOptions {
  readonly J?: boolean;
  readonly all?: boolean;
  readonly noempty?: boolean;
  readonly bytes?: boolean;
  readonly nodeps?: boolean;
  readonly exclude?: readonly number[];
  readonly include?: readonly number[];
  readonly ascii?: boolean;
  readonly inverse?: boolean;
  readonly list?: boolean;
  readonly merge?: boolean;
  readonly outputAll?: boolean;
  readonly pairs?: boolean;
  readonly paths?: boolean;
  readonly raw?: boolean;
  readonly tree?: string | true;
  readonly shell?: boolean;
}

export function lsblkCommand(context: Context): Command {
  const sets: string[] = [];
  const command = new Command("lsblk")
    .description("Shows udm's loop and mapped devices, and the machine's disks below them, as lsblk does.")
    .argument("[dev...]", "only these and what stands on them")
    .addOption(new Option("-J", "JSON exactly as lsblk prints it: sizes as text unless -b"))
    .option("-a, --all", "unused loop devices and RAM disks too")
    .option("-A, --noempty", "leave empty devices out")
    .option("-b, --bytes", "sizes in bytes")
    .option("-d, --nodeps", "only what stands on nothing, or only the devices named")
    .option("-D, --discard", "columns on discards")
    .addOption(new Option("-e, --exclude <majors>", "leave trees of these major numbers out").argParser(parseMajors))
    .addOption(new Option("-I, --include <majors>", "only trees of these major numbers").argParser(parseMajors))
    .option("-f, --fs", "columns on file systems")
    .option("-i, --ascii", "draw the tree with ASCII characters")
    .option("-l, --list", "each device once, no tree")
    .option("-m, --perms", "columns on permissions")
    .option("-M, --merge", "draw what stands on several devices once, below a bracket")
    .option("-n, --noheadings", "leave the line of headings out")
    .option("-O, --output-all", "all columns")
    .option("-p, --paths", "full paths")
    .option("-P, --pairs", 'KEY="value" pairs')
    .option("-r, --raw", "one blank between columns, no tree")
    .option("-s, --inverse", "from the top down to what devices stand on")
    .option("-t, --topology", "columns on sizes of I/O and queues")
    .option("-T, --tree [column]", "draw the tree, in this column")
    .option("-x, --sort <column>", "sort by a column and list; -COL the other way round")
    .option("-y, --shell", "with -P: keys that are names of shell variables")
    .action(async (devs: readonly string[], options: LsblkOptions) => {
      await lsblk(context, withTreeColumn({ devs, options, sets: [...new Set(sets)] }));
    });
  // In the order given: so stand their columns.
  for (const name of Object.keys(LSBLK_SETS)) command.on(`option:${name}`, () => sets.push(name));
  return command;
}

interface Request {
  readonly devs: readonly string[];
  readonly options: LsblkOptions;
  readonly sets: readonly string[];
}

/** What stands behind -T and is no column is a device. */
function withTreeColumn(request: Request): Request {
  const { tree } = request.options;
  if (typeof tree !== "string") return request;
  const name = tree.replace(/^=/, "").toUpperCase();
  if (LSBLK_COLUMNS.some((column) => column.heading === name)) {
    return { ...request, options: { ...request.options, tree: name } };
  }
  return { ...request, devs: [tree, ...request.devs], options: { ...request.options, tree: true } };
}

async function lsblk(context: Context, { devs, options, sets }: Request): Promise<void> {
  refuseContradictions(context, options);
  const columns = columnsOf(context, options, sets);
  const sort = sortOf(context.globals.sort);
  const used = [...columns, ...(sort === undefined ? [] : [sort.column])];
  const host = await context.host();
  const nodes = await host.blockNodes({
    all: options.all === true,
    usage: used.some((column) => column.needs === "usage"),
    details: used.some((column) => column.needs === "details"),
  });
  const forest = new BlockForest(options.noempty === true ? nodes.filter((node) => node.sizeBytes > 0) : nodes, {
    isInverse: options.inverse === true,
    compare: (left, right) => sort?.compare(left, right) || byDeviceNumber(left, right),
  });
  const named = devs.map((dev) => [dev, forest.find(dev)] as const);
  const missing = named.filter(([, node]) => node === undefined).map(([dev]) => dev);
  const found = [...new Set(named.map(([, node]) => node).filter((node) => node !== undefined))];
  const roots = (devs.length === 0 ? forest.roots() : found.sort(byDeviceNumber)).filter((node) =>
    isChosen(node, options),
  );
  print(context, { forest, roots, columns, options, sort });
  if (missing.length > 0) {
    throw new StateError("ENODEV", `lsblk: ${missing.join(", ")}: not a block device`, {
      hint: "udm lsblk without a name shows them all",
    });
  }
}

const EXCLUSIVE: readonly (readonly (readonly [keyof LsblkOptions, string])[])[] = [
  [
    ["J", "-J"],
    ["pairs", "--pairs"],
    ["raw", "--raw"],
  ],
  [
    ["pairs", "--pairs"],
    ["tree", "--tree"],
    ["list", "--list"],
    ["raw", "--raw"],
  ],
  [
    ["include", "--include"],
    ["exclude", "--exclude"],
  ],
];

function refuseContradictions(context: Context, options: LsblkOptions): void {
  for (const group of EXCLUSIVE) {
    const given = group.filter(([key]) => options[key] !== undefined).map(([, flag]) => flag);
    if (given.length > 1) throw contradiction(given);
  }
  if (options.outputAll === true && context.globals.output !== undefined)
    throw contradiction(["--output-all", "--output"]);
  for (const flag of ["J", "pairs", "raw"] as const) {
    if (context.globals.json && options[flag] !== undefined)
      throw contradiction(["--json", flag === "J" ? "-J" : `--${flag}`]);
  }
}

function contradiction(flags: readonly string[]): UsageError {
  return new UsageError(`lsblk: mutually exclusive arguments: ${flags.join(" ")}`, { hint: "give one of them" });
}

function columnsOf(context: Context, options: LsblkOptions, sets: readonly string[]): readonly LsblkColumn[] {
  if (options.outputAll === true) return LSBLK_COLUMNS;
  const usual = LSBLK_COLUMNS.filter((column) => column.isUsual === true).map((column) => column.heading);
  const base = sets.length === 0 ? usual : [...new Set(["NAME", ...sets.flatMap((set) => LSBLK_SETS[set]!)])];
  const { output } = context.globals;
  const choice =
    output === undefined ? base.join(",") : output.startsWith("+") ? [...base, output.slice(1)].join(",") : output;
  return chooseColumns(LSBLK_COLUMNS, choice);
}

interface Sort {
  readonly column: LsblkColumn;
  readonly compare: (left: BlockNode, right: BlockNode) => number;
}

function sortOf(text: string | undefined): Sort | undefined {
  if (text === undefined) return undefined;
  const sign = text.startsWith("-") ? -1 : 1;
  const [column] = chooseColumns(LSBLK_COLUMNS, text.replace(/^-/, ""));
  const { heading, value } = column!;
  // Numbers, although they are printed as text.
  if (heading === "MAJ:MIN") return { column: column!, compare: (left, right) => sign * byDeviceNumber(left, right) };
  return {
    column: column!,
    compare: (left, right) => sign * compareValues(value(left, undefined), value(right, undefined)),
  };
}

function isChosen(node: BlockNode, { include, exclude }: LsblkOptions): boolean {
  const [major] = deviceNumbers(node);
  return (include?.includes(major) ?? true) && exclude?.includes(major) !== true;
}

interface View {
  readonly forest: BlockForest;
  readonly roots: readonly BlockNode[];
  readonly columns: readonly LsblkColumn[];
  readonly options: LsblkOptions;
  readonly sort: Sort | undefined;
}

function print(context: Context, view: View): void {
  const { globals } = context;
  const { columns, options } = view;
  const isJson = options.J === true || globals.json;
  const unit: Unit = options.bytes === true || globals.json ? "b" : (globals.units ?? "h");
  const { lines, entries, indent } = arrange(context, view);
  if (isJson) {
    const fields = columns.map((column) => ({
      column,
      valueFor: (entry: Entry) => jsonValue(column, cellValue(column, entry, options), unit),
    }));
    const isTree = isList(view) || treeColumnOf(view) >= 0;
    context.line(lsblkJson(isTree ? entries : lines.map(({ entry }) => ({ ...entry, children: [] })), fields));
    return;
  }
  const texts = (entry: Entry) => columns.map((column) => cellLines(column, cellValue(column, entry, options), unit));
  if (options.pairs === true) {
    const keys = columns.map(({ heading }) => (options.shell === true ? shellName(heading) : heading));
    const pairs = (cell: readonly string[], index: number) => `${keys[index]}="${quotedText(cell.join("\n"))}"`;
    context.lines(lines.map(({ entry }) => texts(entry).map(pairs).join(" ")));
    return;
  }
  if (options.raw === true) {
    const rows = lines.map(({ entry }) =>
      texts(entry)
        .map((cell) => rawWord(cell.join("\n")))
        .join(" "),
    );
    const isHeaded = globals.headings && rows.length > 0;
    context.lines(isHeaded ? [columns.map((column) => column.heading).join(" "), ...rows] : rows);
    return;
  }
  if (lines.length === 0) return;
  const treeColumn = treeColumnOf(view);
  const { isUtf8 } = context;
  context.lines(
    layOut(
      columns.map(({ heading, isRight, leastWidth }, index) => ({
        heading,
        isRight: isRight === true && index !== treeColumn,
        ...(leastWidth === undefined ? {} : { leastWidth }),
      })),
      lines.map(({ entry, first, further }) => ({
        cells: texts(entry).map((cell, index) =>
          columns[index]!.heading === "MAJ:MIN" ? cell.map(alignedNumber) : cell.map((text) => tableText(text, isUtf8)),
        ),
        first,
        further,
      })),
      { headings: globals.headings, treeColumn, indent },
    ),
  );
}

/** A list is each device once: asked for, or because it is sorted and nothing else is asked for. */
function isList({ options, sort }: View): boolean {
  if (options.list === true) return true;
  return sort !== undefined && options.tree === undefined && options.raw !== true && options.pairs !== true;
}

/** Column that the tree is drawn in; -1: none, the lines stand for themselves. */
function treeColumnOf(view: View): number {
  const heading = typeof view.options.tree === "string" ? view.options.tree : "NAME";
  return isList(view) ? -1 : view.columns.findIndex((column) => column.heading === heading);
}

function arrange(
  context: Context,
  view: View,
): { readonly entries: readonly Entry[]; readonly lines: readonly TreeLine[]; readonly indent: string } {
  const { forest, roots, options, sort } = view;
  const isUtf8 = context.isUtf8 && options.ascii !== true;
  const depth = options.nodeps === true ? 0 : undefined;
  if (isList(view)) {
    const compare = (left: Entry, right: Entry) =>
      sort?.compare(left.node, right.node) || byDeviceNumber(left.node, right.node);
    const entries = [...flatten(makeEntries(forest, roots, depth))].sort(compare);
    return { entries, lines: entries.map((entry) => ({ entry, first: "", further: "" })), indent: "" };
  }
  if (options.merge === true && options.nodeps !== true) {
    const { entries, groups } = mergedEntries(forest, roots);
    return { entries, ...drawMerged(entries, groups, isUtf8) };
  }
  const entries = makeEntries(forest, roots, depth);
  const lines = drawLines(entries, isUtf8);
  const isPlain = options.raw === true || options.pairs === true;
  if (isPlain || treeColumnOf(view) >= 0) return { entries, lines, indent: "" };
  // Nothing shows who is under whom: the order is that of a list.
  const inOrder = lines.toSorted((left, right) => byDeviceNumber(left.entry.node, right.entry.node));
  return { entries, lines: inOrder, indent: "" };
}

function cellValue(column: LsblkColumn, { node, parent }: Entry, options: LsblkOptions): LsblkValue {
  if (options.paths === true) {
    if (column.heading === "NAME") return node.path;
    if (column.heading === "KNAME") return `/dev/${node.kname}`;
    if (column.heading === "PKNAME") return parent === undefined ? undefined : `/dev/${parent.kname}`;
  }
  return column.value(node, parent);
}

function cellLines(column: LsblkColumn, value: LsblkValue, unit: Unit): readonly string[] {
  if (value === undefined) return [""];
  if (typeof value === "boolean") return [value ? "1" : "0"];
  if (typeof value === "string") return [value];
  if (typeof value !== "number") return value.length === 0 ? [""] : value;
  return [numberText(column, value, unit)];
}

function numberText(column: LsblkColumn, value: number, unit: Unit): string {
  if (column.kind === "size") return formatBytes(value, unit);
  if (column.kind === "percent") return value.toFixed(2);
  return column.kind === "whole-percent" ? `${Math.round(value)}%` : String(value);
}

/** Sizes are numbers in bytes, and text in any other unit; so are lsblk's own percentages. */
function jsonValue(column: LsblkColumn, value: LsblkValue, unit: Unit): LsblkValue {
  if (typeof value !== "number") return value;
  if (column.kind === "size") return unit === "b" ? value : formatBytes(value, unit);
  return column.kind === "whole-percent" ? numberText(column, value, unit) : value;
}

/** lsblk sets the colon of MAJ:MIN in the fourth column. */
function alignedNumber(majMin: string): string {
  const colon = majMin.indexOf(":");
  return `${majMin.slice(0, colon).padStart(3)}:${majMin.slice(colon + 1).padEnd(3)}`;
}

function parseMajors(text: string): readonly number[] {
  const majors = text.split(",").map((word) => (/^\d+$/.test(word.trim()) ? Number(word) : Number.NaN));
  if (majors.some(Number.isNaN)) {
    throw new UsageError(`lsblk: failed to parse list '${text}'`, { hint: "major numbers with commas: 7,253" });
  }
  return majors;
}
