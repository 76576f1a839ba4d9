/** `udm doctor`: what the machine offers, what is wrong, and the command that mends it. Exits 3 when something is wrong. */
import { Command } from "commander";
import type { Examination, ExaminationRequest, Finding } from "../host/index.js";
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
      const request: ExaminationRequest = {
        searchPath: context.environment.PATH ?? "",
        isRoot: context.isRoot,
        devFolder: context.devFolder,
      };
      const examination = await examine(context, request);
      const isWell = !examination.findings.some((finding) => finding.severity === "wrong");
      if (!isWell) context.exitWith(SOMETHING_WRONG);
      if (context.globals.json) context.json({ doctor: { isWell, ...examination } } satisfies DocumentOf<"doctor">);
      else context.lines(report(examination, await context.palette("stdout"), context.globals.quiet));
    });
}

/** By the daemon where one runs. One that does not answer is among what is wrong. */
async function examine(context: Context, request: ExaminationRequest): Promise<Examination> {
  try {
    return await (await context.host()).examine(request);
  } catch (error) {
    const { DaemonSilent } = await import("../host/index.js");
    if (!(error instanceof DaemonSilent)) throw error;
    return (await context.ownHost()).examine({ ...request, silentDaemon: { pid: error.pid } });
  }
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
