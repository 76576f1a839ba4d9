/**
 * The table of udm-thin-tools(7) against the programs it is about: it has every option that the installed ones tell of, and
 * what it says is taken is taken by ours.
 */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { thinToolMain } from "../../src/main.js";
import { captured } from "../commands/run-main.js";
import { HAS_THIN_TOOLS } from "../support/thin-tools.js";
import { readPage } from "./pages.js";

const PATH = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;
const COMPAT = fileURLToPath(new URL("../../bin/compat/", import.meta.url));
const OURS = readdirSync(COMPAT).filter((name) => name.startsWith("thin_"));

interface Row {
  readonly program: string;
  /** `-q`, `--quiet`. */
  readonly names: readonly string[];
  /** Behind the name. */
  readonly value: string | undefined;
  readonly versions: string;
  readonly taken: string;
}

const ROWS: readonly Row[] = readPage("udm-thin-tools.7")
  .split("\n")
  .map((line) => line.replaceAll("\\-", "-").split(":"))
  .filter(([program, ...cells]) => program!.startsWith("thin_") && cells.length === 4)
  .map(([program, options, versions, taken]) => {
    const [names, value] = options!.split(/ (?!-)/);
    return { program: program!, names: names!.split(", "), value, versions: versions!, taken: taken! };
  });

const PROGRAMS = [...new Set(ROWS.map(({ program }) => program))];
const IN_09 = PROGRAMS.filter((name) => ROWS.some((row) => row.program === name && row.versions.includes("0.9")));

/** Values that options can have; what they name is not there. */
const VALUES: Readonly<Record<string, string>> = {
  "--region": "1..2",
  "--unit": "m",
  "--block-size": "64k",
  "--pool-size": "1t",
};

function run(program: string, words: readonly string[]) {
  return captured((streams) =>
    thinToolMain(program, words, streams, {
      environment: { UDM_STATE_DIR: "/nonexistent/state", UDM_RUN_DIR: "/nonexistent/run", LC_ALL: "C" },
      isRoot: false,
    }),
  );
}

/** Whether a program of ours knows an option, alone or with a word behind it, whatever else it says. */
async function knows(program: string, name: string, value: string | undefined): Promise<boolean> {
  const unknown = /unrecognized option|invalid option|unknown option|unexpected argument|unknown format/i;
  const lines = value === undefined ? [[name], [name, VALUES[name] ?? "5"]] : [[name, value]];
  for (const words of lines) if (!unknown.test((await run(program, words)).stderr)) return true;
  return false;
}

test("the table is of the programs that are there", () => {
  expect([...PROGRAMS].sort()).toEqual([...OURS].sort());
  expect(ROWS.length).toBeGreaterThan(70);
  for (const { taken, versions } of ROWS) {
    expect(["yes", "no"]).toContain(taken);
    expect(["0.9", "1.x", "0.9, 1.x"]).toContain(versions);
  }
});

describe.skipIf(!HAS_THIN_TOOLS)("what the installed program tells of is in the table", () => {
  test.each(IN_09)("%s", (program) => {
    const { stdout, status } = spawnSync(program, ["--help"], { env: { PATH }, encoding: "utf8" });
    expect(status).toBe(0);
    // Lines of options are indented; the first words of each name one.
    const told = stdout
      .split("\n")
      .filter((line) => /^\s+(\{|-)/.test(line))
      .flatMap((line) => line.match(/(?<![\w-])--?[A-Za-z][\w-]*/g) ?? []);
    const named = ROWS.filter((row) => row.program === program && row.versions.includes("0.9")).flatMap(
      ({ names }) => names,
    );
    expect(told.length).toBeGreaterThan(1);
    expect(told.filter((name) => !named.includes(name))).toEqual([]);
  });
});

describe("what the table says is taken is taken, and nothing else", () => {
  test.each(PROGRAMS)("%s", async (program) => {
    for (const { names, value, taken } of ROWS.filter((row) => row.program === program)) {
      for (const name of names) {
        const isKnown = await knows(program, name, value);
        expect(isKnown, `${program} ${name} ${value ?? ""}`).toBe(taken === "yes");
      }
    }
    expect(await knows(program, "--no-such-option", undefined)).toBe(false);
  });
});
