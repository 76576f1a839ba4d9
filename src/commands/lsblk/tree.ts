/**
 * The forest as it is printed: lines in order, with the characters before each name.
 *
 * Merging (-M) draws a device that stands on several once, at the left edge, behind a bracket that joins what it stands
 * on. A group is those parents; its children come after the root tree in which the last of the parents was drawn. Each
 * group that is open takes three columns at the left, the first to open the rightmost free ones.
 */
import type { BlockNode } from "../../host/index.js";
import type { BlockForest } from "./forest.js";

export interface Entry {
  readonly node: BlockNode;
  readonly parent: BlockNode | undefined;
  readonly children: readonly Entry[];
}

/** A line: `first` before its name, `further` before the other lines of the same row. */
export interface TreeLine {
  readonly entry: Entry;
  readonly first: string;
  readonly further: string;
}

/** The trees under `roots`; a node with two parents is under both. */
export function makeEntries(forest: BlockForest, roots: readonly BlockNode[], depthLimit?: 0): readonly Entry[] {
  const enter = (node: BlockNode, parent: BlockNode | undefined): Entry => ({
    node,
    parent,
    children: depthLimit === 0 ? [] : forest.children(node).map((child) => enter(child, node)),
  });
  return roots.map((root) => enter(root, undefined));
}

/** Each device below the roots once, as first met. */
export function flatten(entries: readonly Entry[]): readonly Entry[] {
  const found = new Map<BlockNode, Entry>();
  const visit = (entry: Entry) => {
    found.set(entry.node, { node: entry.node, parent: entry.parent, children: [] });
    for (const child of entry.children) visit(child);
  };
  for (const entry of entries) visit(entry);
  return [...found.values()];
}

interface Glyphs {
  readonly branch: string;
  readonly lastBranch: string;
  readonly passing: string;
  readonly line: string;
  readonly firstMember: string;
  readonly member: string;
  readonly lastMember: string;
  readonly waitingMembers: string;
  readonly child: string;
  readonly lastChild: string;
  readonly waitingChildren: string;
  readonly filler: string;
}

const ASCII: Glyphs = {
  branch: "|-",
  lastBranch: "`-",
  passing: "| ",
  line: "|",
  firstMember: ",->",
  member: "|->",
  lastMember: "'->",
  waitingMembers: "|  ",
  child: " |-",
  lastChild: " `-",
  waitingChildren: " | ",
  filler: "-",
};

const UTF8: Glyphs = {
  branch: "├─",
  lastBranch: "└─",
  passing: "│ ",
  line: "│",
  firstMember: "┌┈▶",
  member: "├┈▶",
  lastMember: "└┬▶",
  waitingMembers: "┆  ",
  child: " ├┈",
  lastChild: " └┈",
  waitingChildren: " ┆ ",
  filler: "┈",
};

export function drawLines(entries: readonly Entry[], isUtf8: boolean): readonly TreeLine[] {
  const glyphs = isUtf8 ? UTF8 : ASCII;
  const lines: TreeLine[] = [];
  for (const entry of entries) drawTree(entry, glyphs, lines);
  return lines;
}

function drawTree(root: Entry, glyphs: Glyphs, lines: TreeLine[]): void {
  const visit = (entry: Entry, first: string, below: string): void => {
    const { children } = entry;
    lines.push({ entry, first, further: children.length > 0 ? below + glyphs.line : below });
    children.forEach((child, index) => {
      const isLast = index === children.length - 1;
      visit(child, below + (isLast ? glyphs.lastBranch : glyphs.branch), below + (isLast ? "  " : glyphs.passing));
    });
  };
  visit(root, "", "");
}

/** Parents that are joined, and what stands on them. */
interface Group {
  readonly members: ReadonlySet<BlockNode>;
  readonly children: readonly BlockNode[];
}

/** The root trees of -M, in order: those of `roots`, and behind the last member of a group its children. */
export function mergedEntries(
  forest: BlockForest,
  roots: readonly BlockNode[],
): {
  readonly entries: readonly Entry[];
  readonly groups: readonly Group[];
} {
  const reached = new Set<BlockNode>();
  const reach = (node: BlockNode): void => {
    if (reached.has(node)) return;
    reached.add(node);
    for (const child of forest.children(node)) reach(child);
  };
  for (const root of roots) reach(root);
  const groups = findGroups(forest, reached);
  const isGrouped = new Set(groups.flatMap((group) => group.children));
  const enter = (node: BlockNode, parent: BlockNode | undefined): Entry => {
    left.delete(node);
    const children = forest.children(node).filter((child) => !isGrouped.has(child));
    return { node, parent, children: children.map((child) => enter(child, node)) };
  };
  const left = new Set(reached);
  const entries: Entry[] = [];
  const pending = new Set(groups);
  const addRoot = (node: BlockNode): void => {
    entries.push(enter(node, undefined));
    for (const group of pending) {
      if ([...group.members].some((member) => left.has(member))) continue;
      pending.delete(group);
      group.children.forEach(addRoot);
    }
  };
  for (const root of roots) if (!isGrouped.has(root)) addRoot(root);
  return { entries, groups };
}

/** Children with several parents; groups that share a member are one, unless a member stands on the group itself. */
function findGroups(forest: BlockForest, reached: ReadonlySet<BlockNode>): readonly Group[] {
  let groups: { members: Set<BlockNode>; children: BlockNode[] }[] = [];
  for (const child of reached) {
    const parents = forest.parents(child).filter((parent) => reached.has(parent));
    if (parents.length < 2 || standsOnItself(forest, parents)) continue;
    const isShared = (group: { members: Set<BlockNode> }) => parents.some((parent) => group.members.has(parent));
    const joined = groups.filter(isShared);
    const group = { members: new Set(parents), children: [child] };
    for (const each of joined) {
      for (const member of each.members) group.members.add(member);
      group.children = [...each.children, ...group.children];
    }
    if (group.children.some((each) => group.members.has(each)) || standsOnItself(forest, [...group.members])) continue;
    groups = [...groups.filter((each) => !joined.includes(each)), group];
  }
  return groups;
}

/** Whether one of the parents stands on another: a bracket would have to close before it opens. */
function standsOnItself(forest: BlockForest, parents: readonly BlockNode[]): boolean {
  const above = new Set<BlockNode>();
  const climb = (node: BlockNode): void => {
    for (const child of forest.children(node)) {
      if (above.has(child)) continue;
      above.add(child);
      climb(child);
    }
  };
  for (const parent of parents) climb(parent);
  return parents.some((parent) => above.has(parent));
}

type State = "members" | "children";

/** Lines of -M, with the brackets of the groups before the trees. */
export function drawMerged(
  entries: readonly Entry[],
  groups: readonly Group[],
  isUtf8: boolean,
): { readonly lines: readonly TreeLine[]; readonly indent: string } {
  const glyphs = isUtf8 ? UTF8 : ASCII;
  const plain = drawLines(entries, isUtf8);
  if (groups.length === 0) return { lines: plain, indent: "" };
  const spans = groups.map((group) => spanOf(group, plain));
  const slots = placeSpans(spans);
  const slotCount = Math.max(...slots) + 1;
  const lines = plain.map((line, index) => {
    let [first, further] = ["", ""];
    let isFilling = false;
    for (let slot = 0; slot < slotCount; slot++) {
      // The first group to open stands at the right.
      const at = spans.findIndex((span, each) => slots[each] === slotCount - 1 - slot && isWithin(span, index));
      const piece = at < 0 ? undefined : pieceOf(spans[at]!, index, glyphs);
      if (piece?.isChild === true) isFilling = true;
      if (piece?.isMember === true) isFilling = false;
      first += piece?.text ?? (isFilling ? glyphs.filler.repeat(3) : "   ");
      further += piece?.after ?? "   ";
    }
    return {
      entry: line.entry,
      first: `${first}${isFilling ? glyphs.filler : " "}${line.first}`,
      further: `${further} ${line.further}`,
    };
  });
  return { lines, indent: " ".repeat(slotCount * 3 + 1) };
}

interface Span {
  readonly members: readonly number[];
  readonly children: readonly number[];
}

function spanOf(group: Group, lines: readonly TreeLine[]): Span {
  const at = (nodes: readonly BlockNode[]) => nodes.map((node) => lines.findIndex((line) => line.entry.node === node));
  const ascending = (left: number, right: number) => left - right;
  return { members: at([...group.members]).sort(ascending), children: at(group.children).sort(ascending) };
}

function isWithin(span: Span, index: number): boolean {
  return index >= span.members[0]! && index <= span.children.at(-1)!;
}

function pieceOf(span: Span, index: number, glyphs: Glyphs) {
  const state: State = index >= span.members.at(-1)! ? "children" : "members";
  const isLastChild = index === span.children.at(-1);
  const after = isLastChild ? "   " : state === "members" ? glyphs.waitingMembers : glyphs.waitingChildren;
  if (span.members.includes(index)) {
    const isLast = index === span.members.at(-1);
    const text = isLast ? glyphs.lastMember : index === span.members[0] ? glyphs.firstMember : glyphs.member;
    return { text, after, isMember: true };
  }
  if (span.children.includes(index)) {
    return { text: isLastChild ? glyphs.lastChild : glyphs.child, after, isChild: true };
  }
  return { text: after, after };
}

/** A slot for each span, the lowest that is free from its first line to its last. */
function placeSpans(spans: readonly Span[]): readonly number[] {
  const slots: number[] = spans.map(() => 0);
  const order = spans.map((_, index) => index).sort((a, b) => spans[a]!.members[0]! - spans[b]!.members[0]!);
  const placed: number[] = [];
  for (const index of order) {
    const start = spans[index]!.members[0]!;
    const taken = new Set(placed.filter((each) => spans[each]!.children.at(-1)! >= start).map((each) => slots[each]!));
    let slot = 0;
    while (taken.has(slot)) slot++;
    slots[index] = slot;
    placed.push(index);
  }
  return slots;
}
