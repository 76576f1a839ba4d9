/** The manual's pages, and what the commands say should stand in them. */
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Context } from "../../src/commands/index.js";
import { FAMILY_PAGES, fillPage } from "../../src/commands/manual.js";

export const MAN = fileURLToPath(new URL("../../man/", import.meta.url));

export const PAGES: readonly string[] = readdirSync(MAN)
  .filter((name) => /\.\d$/.test(name))
  .sort();

export function readPage(name: string): string {
  return readFileSync(`${MAN}${name}`, "utf8");
}

/** The page with its generated sections made anew. */
export function regenerate(name: string): Promise<string> {
  const family = Object.keys(FAMILY_PAGES).find((key) => FAMILY_PAGES[key] === name);
  const streams = { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr };
  return fillPage(readPage(name), family, new Context({ streams, environment: {}, isRoot: false }));
}

/** One command of a page's EXAMPLES and the lines it prints there. */
export interface Example {
  readonly command: string;
  readonly output: string;
}

/** The lines between `.nf` and `.fi` of EXAMPLES: `$ command`, then its output. */
export function examplesOf(page: string): readonly Example[] {
  const section = /\n\.SH EXAMPLES\n([\s\S]*?)(?=\n\.SH |$)/.exec(page)?.[1] ?? "";
  const examples: { command: string; output: string }[] = [];
  for (const block of section.matchAll(/\n\.nf\n([\s\S]*?)\n\.fi/g)) {
    const lines = (block[1] ?? "").split("\n").map(plain);
    // Behind "#" stands what needs root and mounts; test/cli/attach.test.ts does such things.
    if (lines[0]?.startsWith("# ") === true) continue;
    for (const line of lines) {
      const last = examples.at(-1);
      if (last !== undefined && last.output === "" && /[\\|]$/.test(last.command)) last.command += `\n${line}`;
      else if (line.startsWith("$ ")) examples.push({ command: line.slice(2), output: "" });
      else examples.at(-1)!.output += `${line}\n`;
    }
  }
  return examples;
}

function plain(line: string): string {
  return line.replaceAll("\\-", "-").replaceAll("\\(aq", "'").replaceAll("\\&", "").replaceAll("\\e", "\\");
}
