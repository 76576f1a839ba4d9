/** The arrows between the folders of src, as style.md draws them; any other import is a failure. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { describe, expect, test } from "vitest";

const SRC = fileURLToPath(new URL("../../src/", import.meta.url));

/** A folder may use everything to its left. */
const LINE = ["errors", "units", "bytes", "io", "persistent-data", "thin", "targets", "device-registry"];
const upTo = (last: string) => LINE.slice(0, LINE.indexOf(last) + 1);

const MAY_USE: Readonly<Record<string, readonly string[]>> = {
  ...Object.fromEntries(LINE.map((folder, index) => [folder, LINE.slice(0, index)])),
  loop: upTo("io"),
  nbd: upTo("io"),
  fuse: upTo("io"),
  lvm: LINE,
  docker: LINE,
  host: [...LINE, "loop", "nbd", "fuse", "lvm", "docker"],
  ui: ["errors", "units"],
  commands: [...LINE, "loop", "nbd", "fuse", "lvm", "docker", "host", "ui"],
};

/** Files of src itself: the program stands on the commands, the library on what is below them. */
const TOP_FILES: Readonly<Record<string, readonly string[]>> = {
  "main.ts": [...MAY_USE.commands!, "commands", "version.ts"],
  "index.ts": [...LINE, "loop", "nbd", "host", "version.ts"],
  "version.ts": [],
};

const PACKAGES: Readonly<Record<string, readonly string[]>> = {
  commander: ["commands", "main.ts"],
  chalk: ["ui"],
  "cli-table3": ["ui"],
  execa: ["io"],
  koffi: ["io", "loop", "fuse", "nbd"],
};

interface Source {
  readonly path: string;
  readonly folder: string;
  readonly imports: readonly string[];
  readonly tree: ts.SourceFile;
}

const SOURCES: readonly Source[] = readdirSync(SRC, { recursive: true, encoding: "utf8" })
  .filter((path) => path.endsWith(".ts"))
  .map((path) => {
    const tree = ts.createSourceFile(path, readFileSync(join(SRC, path), "utf8"), ts.ScriptTarget.ES2023, true);
    return { path, folder: path.split("/")[0]!, imports: importsOf(tree), tree };
  });

function importsOf(tree: ts.SourceFile): readonly string[] {
  const found: string[] = [];
  walk(tree, (node) => {
    const isStatement = ts.isImportDeclaration(node) || ts.isExportDeclaration(node);
    const named = isStatement ? node.moduleSpecifier : undefined;
    if (named !== undefined && ts.isStringLiteral(named)) found.push(named.text);
    if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const [argument] = node.arguments;
      if (argument !== undefined && ts.isStringLiteral(argument)) found.push(argument.text);
    }
  });
  return found;
}

function walk(node: ts.Node, visit: (node: ts.Node) => void): void {
  visit(node);
  ts.forEachChild(node, (child) => walk(child, visit));
}

/** Where an import leads inside src: its folder or top file, and the file itself. */
function target(source: Source, specifier: string) {
  const path = relative(".", normalize(join(dirname(source.path), specifier))).replace(/\.js$/, ".ts");
  return { path, folder: path.split("/")[0]! };
}

test("src has been read", () => expect(SOURCES.length).toBeGreaterThan(30));

describe.each(SOURCES.map((source) => [source.path, source] as const))("%s", (_, source) => {
  test("imports only what lies to its left, through the folder's index", () => {
    const allowed = TOP_FILES[source.path] ?? MAY_USE[source.folder];
    expect(allowed, `${source.folder} has no place in the drawing`).toBeDefined();
    const wrong = source.imports
      .filter((specifier) => specifier.startsWith("."))
      .map((specifier) => target(source, specifier))
      .filter(({ folder, path }) => {
        if (folder === source.folder) return false;
        if (!allowed!.includes(folder)) return true;
        return path !== folder && path !== `${folder}/index.ts`;
      });
    expect(wrong).toEqual([]);
  });

  test("imports node's modules by their node: names and packages only where they belong", () => {
    const wrong = source.imports.filter((specifier) => {
      if (specifier.startsWith(".") || specifier.startsWith("node:")) return false;
      return PACKAGES[specifier]?.includes(source.folder) !== true;
    });
    expect(wrong).toEqual([]);
  });

  if (["commands", "ui", "main.ts"].includes(source.folder)) return;
  test("does not print, exit, or read arguments and environment", () => {
    const wrong: string[] = [];
    walk(source.tree, (node) => {
      if (ts.isIdentifier(node) && node.text === "console") wrong.push("console");
      if (!ts.isPropertyAccessExpression(node) || node.expression.getText() !== "process") return;
      // Programs that are run get the environment they would have had; nobody looks into it.
      if (source.path === "io/run.ts" && node.getText() === "process.env") return;
      if (["env", "argv", "exit", "exitCode", "stdin", "stdout", "stderr"].includes(node.name.text)) {
        wrong.push(node.getText());
      }
    });
    expect(wrong).toEqual([]);
  });
});

test("no folders of src import each other in a circle", () => {
  for (const [folder, uses] of Object.entries(MAY_USE)) {
    for (const used of uses) expect(MAY_USE[used], `${folder} and ${used}`).not.toContain(folder);
  }
});
