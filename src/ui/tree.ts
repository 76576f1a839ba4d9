/** The four strings a tree is drawn with, two columns a level, as lsblk draws it. */

export interface TreeGlyphs {
  readonly branch: string;
  readonly lastBranch: string;
  readonly passing: string;
  readonly blank: string;
}

const ASCII: TreeGlyphs = { branch: "|-", lastBranch: "`-", passing: "| ", blank: "  " };
const UTF8: TreeGlyphs = { branch: "├─", lastBranch: "└─", passing: "│ ", blank: "  " };

export function treeGlyphs(isUtf8: boolean): TreeGlyphs {
  return isUtf8 ? UTF8 : ASCII;
}

/** Whether the locale's character set is UTF-8: the first of LC_ALL, LC_CTYPE and LANG that is set decides. */
export function isUtf8Locale(environment: Readonly<Record<string, string | undefined>>): boolean {
  const locale = [environment.LC_ALL, environment.LC_CTYPE, environment.LANG].find((value) => value);
  return locale !== undefined && /utf-?8/i.test(locale);
}

/** One line of a drawn tree: its prefix of tree characters and the node it shows. */
export interface TreeLine<Node> {
  readonly prefix: string;
  readonly node: Node;
}

/** Draws the trees under `roots`, children in the order given. A node under two parents is drawn under both. */
export function drawTree<Node>(
  roots: readonly Node[],
  childrenOf: (node: Node) => readonly Node[],
  glyphs: TreeGlyphs,
): readonly TreeLine<Node>[] {
  const lines: TreeLine<Node>[] = [];
  const visit = (node: Node, prefix: string, below: string): void => {
    lines.push({ prefix, node });
    const children = childrenOf(node);
    children.forEach((child, index) => {
      const isLast = index === children.length - 1;
      visit(
        child,
        below + (isLast ? glyphs.lastBranch : glyphs.branch),
        below + (isLast ? glyphs.blank : glyphs.passing),
      );
    });
  };
  for (const root of roots) visit(root, "", "");
  return lines;
}
