import { spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { COMMANDS } from "../../src/commands/index.js";
import { escaped, FAMILY_PAGES } from "../../src/commands/manual.js";
import { examplesOf, MAN, PAGES, readPage, regenerate } from "./pages.js";

const hasMandoc = spawnSync("mandoc", ["-Tlint", "/dev/null"]).error === undefined;
/** In CI nothing is skipped: a missing tool is a failure there. */
const mayRunMandoc = hasMandoc || process.env.CI === "true";

test("every command belongs to a page, and every page exists", () => {
  for (const entry of COMMANDS) expect(FAMILY_PAGES[entry.family ?? entry.name], entry.name).toBeDefined();
  expect(PAGES).toEqual(expect.arrayContaining([...Object.values(FAMILY_PAGES), "udm.8", "udm-thin-pools.7"]));
});

describe.each(PAGES)("%s", (name) => {
  test("says what the commands say: `npm run man` changes nothing", async () => {
    expect(readPage(name)).toBe(await regenerate(name));
  });

  test("has its sections in order", () => {
    const headings = [...readPage(name).matchAll(/^\.SH "?([^"\n]+)"?$/gm)].map((match) => match[1]);
    const order = [
      "NAME",
      "SYNOPSIS",
      "DESCRIPTION",
      "OPTIONS",
      "EXIT STATUS",
      "DIAGNOSTICS",
      "ENVIRONMENT",
      "EXAMPLES",
      "FILES",
      "RECOVERY",
      "SEE ALSO",
    ];
    expect(headings).toEqual(order.filter((heading) => headings.includes(heading)));
    const wanted = name.endsWith(".8")
      ? ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "DIAGNOSTICS", "EXAMPLES", "FILES", "SEE ALSO"]
      : ["NAME", "DESCRIPTION", "SEE ALSO"];
    expect(headings).toEqual(expect.arrayContaining(wanted));
    if (name.endsWith(".8")) expect(examplesOf(readPage(name)).length).toBeGreaterThan(0);
  });

  test("refers only to pages that exist", () => {
    const own = [...readPage(name).matchAll(/\b(udm[\w\\-]*) \((\d)\)/g)].map(
      (match) => `${match[1]!.replaceAll("\\", "")}.${match[2]}`,
    );
    expect(PAGES).toEqual(expect.arrayContaining([...new Set(own)]));
  });

  test.runIf(mayRunMandoc)("mandoc finds nothing to complain about", () => {
    const ran = spawnSync("mandoc", ["-Tlint", `${MAN}${name}`], { encoding: "utf8" });
    expect(ran.error).toBeUndefined();
    expect(ran.stdout + ran.stderr).toBe("");
  });
});

test("what troff would take for a request is text", () => {
  expect(escaped("a-b\\c\n.d\n'e")).toBe("a\\-b\\ec\n\\&.d\n\\&'e");
});
