/**
 * `udm lsblk`: the tree that lsblk prints, over udm's loop and mapped devices and the machine's block devices. Columns,
 * widths, order and JSON are util-linux' own; the captured outputs are the measure.
 */
import { Command, Option } from "commander";
import { StateError } from "../errors/index.js";
import type { BlockNode } from "../host/index.js";
import { drawTree, renderTable, type TreeLine, treeGlyphs } from "../ui/index.js";
import type { Unit } from "../units/index.js";
import type { Context } from "./context.js";
import { LSBLK_COLUMNS, type LsblkColumn } from "./lsblk-columns.js";
import { BlockForest } from "./lsblk-forest.js";
import { lsblkJson } from "./lsblk-json.js";
import { cellText, chooseColumns, compareValues, isRightAligned } from "./report.js";

interface LsblkOptions {
  readonly J?: boolean;
  readonly bytes?: boolean;
  readonly paths?: boolean;
  readonly inverse?: boolean;
  readonly nodeps?: boolean;
  readonly raw?: boolean;
  readonly pairs?: boolean;
  readonly list?: boolean;
  readonly ascii?: boolean;
  readonly all?: boolean;
}

export function lsblkCommand(context: Context): Command {
  return new Command("lsblk")
    .description("Shows udm's loop and mapped devices, and the machine's disks below them, as lsblk does.")
    .argument("[dev...]", "only these and what stands on them")
    .addOption(new Option("-J", "JSON exactly as lsblk prints it: sizes as text unless -b"))
    .option("-b, --bytes", "sizes in bytes")
    .option("-p, --paths", "full paths")
    .option("-s, --inverse", "from the top down to what devices stand on")
    .option("-d, --nodeps", "only what stands on nothing")
    .option("-r, --raw", "one blank between columns, no tree")
    .option("-P, --pairs", 'KEY="value" pairs')
    .option("-l, --list", "each device once, no tree")
    .option("-i, --ascii", "draw the tree with ASCII characters")
    .option("-a, --all", "empty devices too")
    .option("-n, --noheadings", "leave the line of headings out")
    .option("-x, --sort <column>", "sort by a column and list")
    .action(async (devs: readonly string[], options: LsblkOptions) => {
      const host = await context.host();
      const nodes = (await host.blockNodes()).filter((node) => options.all === true || node.sizeBytes > 0);
      const forest = new BlockForest(nodes, options.inverse === true);
      const missing = devs.filter((dev) => forest.find(dev) === undefined);
      if (devs.length > missing.length || devs.length === 0) {
        const roots = devs.length === 0 ? forest.roots() : found(forest, devs);
        await print(context, { forest, roots, nodes, options });
      }
      if (missing.length > 0) {
        throw new StateError("ENODEV", `lsblk: ${missing.join(", ")}: no such block device`, {
          hint: "udm lsblk without a name shows them all",
        });
      }
    });
}

function found(forest: BlockForest, devs: readonly string[]): readonly BlockNode[] {
  return devs.map((dev) => forest.find(dev)).filter((node) => node !== undefined);
}

interface View {
  readonly forest: BlockForest;
  readonly roots: readonly BlockNode[];
  readonly nodes: readonly BlockNode[];
  readonly options: LsblkOptions;
}

async function print(context: Context, view: View): Promise<void> {
  const { globals } = context;
  const { forest, options } = view;
  const columns = chooseColumns(LSBLK_COLUMNS, globals.output);
  const isJson = options.J === true || globals.json;
  const unit: Unit = options.bytes === true || (globals.json && options.J !== true) ? "b" : (globals.units ?? "h");
  const childrenOf = options.nodeps === true ? () => [] : (node: BlockNode) => forest.children(node);
  const nameOf = (node: BlockNode) => (options.paths === true ? node.path : node.name);
  const textOf = (node: BlockNode, column: LsblkColumn, isPlain: boolean) => {
    if (column.heading === "NAME") return nameOf(node);
    if (column.heading === "MAJ:MIN") return isPlain ? node.majMin : alignedNumber(node.majMin);
    const value = column.value(node);
    return value === undefined || (Array.isArray(value) && value.length === 0)
      ? ""
      : cellText(column.kind, value, unit);
  };
  const isList = options.list === true || globals.sort !== undefined;
  if (isJson) {
    const trees = isList ? flat(view, childrenOf, globals.sort) : view.roots;
    context.line(lsblkJson(trees, isList ? () => [] : childrenOf, { columns, unit, nameOf }));
    return;
  }
  const glyphs = treeGlyphs(context.isUtf8 && options.ascii !== true);
  const lines: readonly TreeLine<BlockNode>[] = isList
    ? flat(view, childrenOf, globals.sort).map((node) => ({ prefix: "", node }))
    : drawTree(view.roots, childrenOf, glyphs);
  if (options.pairs === true) {
    context.lines(
      lines.map(({ node }) =>
        columns.map((column) => `${column.heading}="${escapeQuotes(textOf(node, column, true))}"`).join(" "),
      ),
    );
    return;
  }
  const isHeaded = globals.headings;
  if (options.raw === true) {
    const rows = lines.map(({ node }) => columns.map((column) => rawWord(textOf(node, column, true))).join(" "));
    context.lines(isHeaded ? [columns.map((column) => column.heading).join(" "), ...rows] : rows);
    return;
  }
  const rows = lines.map(({ prefix, node }) =>
    columns.map((column) => (column.heading === "NAME" ? prefix : "") + textOf(node, column, false)),
  );
  context.lines(
    await renderTable(
      columns.map((column) => ({
        heading: column.heading,
        align: isRightAligned(column.kind) ? "right" : "left",
        ...(column.widthHint === undefined ? {} : { widthHint: column.widthHint }),
      })),
      rows,
      { headings: isHeaded },
    ),
  );
}

/** Each device below the roots once: by device number, or by the column asked for. */
function flat(
  view: View,
  childrenOf: (node: BlockNode) => readonly BlockNode[],
  sort: string | undefined,
): readonly BlockNode[] {
  const reached = new Set<BlockNode>();
  const visit = (node: BlockNode) => {
    if (reached.has(node)) return;
    reached.add(node);
    for (const child of childrenOf(node)) visit(child);
  };
  for (const root of view.roots) visit(root);
  const inOrder = view.forest.ordered([...reached]);
  if (sort === undefined) return inOrder;
  const isDescending = sort.startsWith("-");
  const [column] = chooseColumns(LSBLK_COLUMNS, isDescending ? sort.slice(1) : sort);
  const sign = isDescending ? -1 : 1;
  return [...inOrder].sort((a, b) => sign * compareValues(column!.value(a), column!.value(b)));
}

/** lsblk sets the colon of MAJ:MIN in the fourth column. */
function alignedNumber(majMin: string): string {
  const [major = "", minor = ""] = majMin.split(":");
  return `${major.padStart(3)}:${minor.padEnd(3)}`;
}

function rawWord(text: string): string {
  return text.replaceAll(" ", "\\x20").replaceAll("\n", "\\x0a");
}

function escapeQuotes(text: string): string {
  return text.replaceAll('"', "\\x22");
}
