import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { COMMANDS, globalOptions } from "../../src/commands/index.js";
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

describe("the overview in Chinese", () => {
  const page = readFileSync(`${MAN}zh_CN/udm.8`, "utf8");
  const english = readPage("udm.8");

  test("names every command of one word, every family, every common option and variable", () => {
    const plain = page.replaceAll("\\-", "-");
    for (const { family, name } of COMMANDS) expect(plain).toContain(`"udm ${family ?? name}"`);
    for (const option of globalOptions()) expect(plain, option.flags).toContain(option.long);
    const variables = [...english.matchAll(/^\.BR? ([A-Z_]+)$/gm)].map((match) => match[1]!);
    expect(variables).toContain("UDM_STATE_DIR");
    for (const variable of variables) expect(page).toContain(variable);
  });

  test("shows what the English one shows", () => {
    const shown = examplesOf(page.replace(".SH 示例", ".SH EXAMPLES"));
    expect(shown.length).toBeGreaterThan(5);
    expect(examplesOf(english)).toEqual(expect.arrayContaining([...shown]));
  });

  test.runIf(mayRunMandoc)("mandoc finds nothing to complain about, and renders its words", () => {
    // Lengths of lines are counted in escapes, of which a character has seven bytes.
    const ran = spawnSync("mandoc", ["-Tlint", "-Wwarning", `${MAN}zh_CN/udm.8`], { encoding: "utf8" });
    expect(ran.stdout + ran.stderr).toBe("");
    const text = spawnSync("mandoc", ["-Kutf-8", "-Tutf8", `${MAN}zh_CN/udm.8`], { encoding: "utf8" }).stdout;
    expect(text).toContain("精简池");
  });
});

test("the README in Chinese keeps step with the English one", () => {
  const [english, chinese] = ["README.md", "README.zh-CN.md"].map((name) => readFileSync(`${MAN}../${name}`, "utf8"));
  const rows = (text: string) =>
    text
      .match(/^\| `udm .*$/gm)
      ?.map((row) => row.split(" | "))
      .map((cells) => [cells[0], cells[2]]);
  const code = (text: string) => text.match(/^ {4}\S.*$/gm)?.map((line) => line.replace(/\s+#.*$/, ""));
  expect(rows(chinese!)).toEqual(rows(english!));
  const shown = code(chinese!) ?? [];
  expect(shown.length).toBeGreaterThan(20);
  expect(code(english!)).toEqual(expect.arrayContaining(shown));
  expect(english).toContain("(README.zh-CN.md)");
  const { files } = JSON.parse(readFileSync(`${MAN}../package.json`, "utf8"));
  expect(files).toEqual(expect.arrayContaining(["README.zh-CN.md", "man", "schema"]));
});

test("what troff would take for a request is text", () => {
  expect(escaped("a-b\\c\n.d\n'e")).toBe("a\\-b\\ec\n\\&.d\n\\&'e");
});
