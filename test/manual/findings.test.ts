/** The findings of udm-metadata(8) against what checks find: in the golden cases of damage, and in the table that they take them from. */
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { FINDINGS } from "../../src/index.js";
import { readPage } from "./pages.js";

const GOLDEN = fileURLToPath(new URL("../golden/damage/", import.meta.url));

/** `severity id` of every entry of the page. */
function toldOnPage(): readonly string[] {
  const page = readPage("udm-metadata.8");
  const section = /\n\.SS "What a check finds"\n([\s\S]*?)\n\.S[SH] /.exec(page)![1]!;
  return [...section.matchAll(/^\.TP\n\\fB(\S+)\\fR \((\w+)\)\n\S.*\n(?:\S.*\n)*?What to do: /gm)].map(
    ([, id, severity]) => `${severity} ${id!.replaceAll("\\-", "-")}`,
  );
}

test("the page has every kind of finding once, with its severity, its meaning and what to do", () => {
  const wanted = Object.entries(FINDINGS).map(([id, { severity }]) => `${severity} ${id}`);
  expect(toldOnPage()).toEqual(wanted);
});

test("what is found in golden cases is on the page, and everything on the page was found somewhere", () => {
  const found = new Set<string>();
  for (const each of readdirSync(GOLDEN, { withFileTypes: true })) {
    if (!each.isDirectory() || each.name === "bases") continue;
    const text = readFileSync(`${GOLDEN}${each.name}/expected.txt`, "utf8");
    for (const [line] of text.matchAll(/^(?:damage|harmless|note) [a-z-]+(?=:)/gm)) found.add(line);
  }
  expect([...found].sort()).toEqual([...toldOnPage()].sort());
});
