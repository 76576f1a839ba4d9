/** The README's first minute is what the program really prints. */
import { randomBytes } from "node:crypto";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { withSession } from "./session.js";

const MIB = 1024 * 1024;

/** Statuses other than 0 that the README's commands end with. */
const STATUSES: Readonly<Record<string, number>> = { "udm metadata check copy.img": 3 };

/** What root does is shown with another prompt, and tested elsewhere. */
const ROOT_PART = /\n[^\n]*\n\n {4}# [\s\S]*/;

test.each(["A first minute", "Devices for other programs", "A sick pool"])(
  "the commands of '%s' print what the README shows",
  async (heading) => {
    const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
    const section = new RegExp(`## ${heading}\n([\\s\\S]*?)\n## `).exec(readme)?.[1]?.replace(ROOT_PART, "") ?? "";
    const lines = section.split("\n").filter((line) => line.startsWith("    ") && !line.includes("npm "));
    const steps: { command: string; output: string }[] = [];
    for (const line of lines.map((each) => each.slice(4))) {
      if (line.startsWith("$ ")) steps.push({ command: line.slice(2), output: "" });
      else steps.at(-1)!.output += `${line}\n`;
    }
    expect(steps.length).toBeGreaterThan(6);
    await withSession(async (session) => {
      writeFileSync(session.path("disk.img"), randomBytes(30 * MIB));
      truncateSync(session.path("disk.img"), 256 * MIB);
      writeFileSync(session.path("patch"), randomBytes(100_000));
      for (const { command, output } of steps) {
        const { stdout, ...ran } = await session.bash(command, { environment: { LC_ALL: "C.UTF-8" } });
        // Blanks at the end of a line do not survive in a README.
        const shown = stdout.replaceAll(/ +$/gm, "");
        expect({ command, ...ran, shown }).toEqual({
          command,
          status: STATUSES[command] ?? 0,
          stderr: "",
          shown: output,
        });
      }
    });
  },
);
