/** What a command reads before it works: the files of the bundle that its own file imports without being asked. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const DIST = fileURLToPath(new URL("../../dist/", import.meta.url));

/** A file of the bundle and all it imports statically. */
function closure(file: string, seen = new Set<string>()): ReadonlySet<string> {
  if (seen.has(file)) return seen;
  seen.add(file);
  const text = readFileSync(file, "utf8");
  for (const [, path] of text.matchAll(/^(?:import|export)\s[^;]*?from\s*"(\.[^"]+)"|^import\s*"(\.[^"]+)"/gm)) {
    if (path !== undefined) closure(join(dirname(file), path), seen);
  }
  return seen;
}

/** Which sources those files were made of. */
function sourcesOf(files: ReadonlySet<string>): readonly string[] {
  return [...files].flatMap((file) => {
    const map = JSON.parse(readFileSync(`${file}.map`, "utf8")) as { sources: string[] };
    return map.sources.map((source) => source.replace(/^(\.\.\/)+/, ""));
  });
}

test("starting udm reads no command, no host and none of the packages that only some commands need", () => {
  const sources = sourcesOf(closure(join(DIST, "main.js")));
  expect(sources).toContain("src/main.ts");
  const unwanted = sources.filter((source) =>
    /^src\/(host|io|thin|targets|persistent-data|loop|device-registry)\/|^src\/commands\/\w+\/|node_modules\/(chalk|cli-table3|execa|koffi)/.test(
      source,
    ),
  );
  expect(unwanted).toEqual([]);
});

test("a command reads no other command's file", () => {
  const chunks = readdirSync(join(DIST, "chunks")).filter((name) => name.endsWith(".js"));
  const found = chunks.filter((name) =>
    sourcesOf(new Set([join(DIST, "chunks", name)])).includes("src/commands/pool/status.ts"),
  );
  expect(found).toHaveLength(1);
  const others = sourcesOf(closure(join(DIST, "chunks", found[0]!))).filter(
    (source) => /^src\/commands\/\w+\/\w+\.ts$/.test(source) && !/pool\/(status|columns)\.ts$/.test(source),
  );
  expect(others).toEqual([]);
});
