/** `udm doctor`: what the machine offers, what is wrong, and the command that mends it. Exits 3 when something is wrong. */
import { Command } from "commander";
import type { Examination, Finding } from "../host/index.js";
import type { Palette } from "../ui/index.js";
import type { Context } from "./context.js";
import type { DocumentOf } from "./schema/documents.js";

const SOMETHING_WRONG = 3;

export function doctorCommand(context: Context): Command {
  return new Command("doctor")
    .description(
      "Tells what this machine offers to udm, what is wrong with what udm keeps, and how to mend it. Changes nothing. Exits 3 when something is wrong.",
    )
    .action(async () => {
      const host = await context.host();
      const examination = await host.examine({
        searchPath: context.environment.PATH ?? "",
        isRoot: context.isRoot,
        devFolder: context.devFolder,
      });
      const isWell = !examination.findings.some((finding) => finding.severity === "wrong");
      if (!isWell) context.exitWith(SOMETHING_WRONG);
      if (context.globals.json) context.json({ doctor: { isWell, ...examination } } satisfies DocumentOf<"doctor">);
      else context.lines(report(examination, await context.palette("stdout"), context.globals.quiet));
    });
}

function report({ machine, findings }: Examination, palette: Palette, isQuiet: boolean): readonly string[] {
  const width = Math.max(...machine.map((each) => each.id.length));
  const offers = machine.map(({ id, isThere, detail, use }) => {
    const mark = isThere ? palette.good("+") : palette.warning("-");
    return `${mark} ${id.padEnd(width)}  ${detail}${isThere || use === "" ? "" : ` (for: ${use})`}`;
  });
  const wrong = findings.filter((finding) => finding.severity === "wrong");
  const notes = findings.filter((finding) => finding.severity === "note");
  const verdict = wrong.length === 0 ? palette.good("nothing is wrong") : palette.error(`${wrong.length} wrong`);
  const told = [...wrong, ...notes].flatMap((finding) => findingLines(finding, palette));
  return [...(isQuiet ? [] : [...offers, ""]), ...told, verdict];
}

function findingLines(finding: Finding, palette: Palette): readonly string[] {
  const mark = finding.severity === "wrong" ? palette.error("wrong:") : palette.warning("note:");
  const line = `${mark} ${finding.subject}: ${finding.message}`;
  return finding.fix === undefined ? [line] : [line, `  ${palette.hint(finding.fix)}`];
}
