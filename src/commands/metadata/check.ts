/** `udm metadata check`: is a pool's metadata sound, what is lost where it is not, and what to do. */
import { Command, Option } from "commander";
import { codeOf, StateError, UsageError } from "../../errors/index.js";
import type { OpenedMetadata } from "../../host/index.js";
import { type CheckReport, checkMetadata, type Finding, mendMetadata } from "../../thin/index.js";
import { formatBytes } from "../../units/index.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";
import type { DocumentOf } from "../schema/documents.js";
import { thinCheckLines } from "./compat-check.js";
import { addSourceOptions, noteOld, SOURCE, type SourceFlags, withPace } from "./options.js";

interface CheckFlags extends SourceFlags {
  readonly superBlockOnly?: boolean;
  readonly skipMappings?: boolean;
  readonly ignoreNonFatalErrors?: boolean;
  readonly clearNeedsCheckFlag?: boolean;
  readonly autoRepair?: boolean;
  readonly overrideMappingRoot?: number;
  readonly compat?: string;
}

const EXIT_DAMAGED = 3;
const EXIT_HARMLESS = 4;
const METADATA_BLOCK_BYTES = 4096;

/** What was done besides looking. */
interface Mended {
  readonly freedBlocks: number;
  readonly clearedNeedsCheck: boolean;
}

export function checkCommand(context: Context): Command {
  const command = new Command("check")
    .description(
      "Reads all of a pool's metadata and holds it against every rule of the format. Exits 0 when it is clean, 4 when only blocks are leaked or something as harmless, 3 when it is damaged.",
    )
    .argument("<source>", SOURCE)
    .option("--super-block-only", "look at the superblock alone")
    .option("--skip-mappings", "look at superblock, devices and details, not at mappings and counts")
    .option("--ignore-non-fatal-errors", "what is harmless does not count: exit 0")
    .option("--clear-needs-check-flag", "clear the needs_check flag when the check finds no damage")
    .option("--auto-repair", "free leaked blocks, in one transaction, and clear the needs_check flag")
    .option(
      "--override-mapping-root <block>",
      "take another tree of devices than the superblock's",
      countOf("metadata block", { min: 0 }),
    )
    .addOption(new Option("--compat <tool>", "print and exit as that tool does").choices(["thin_check"]));
  return addSourceOptions(command).action((from: string, flags: CheckFlags) => check(context, from, flags));
}

async function check(context: Context, from: string, flags: CheckFlags): Promise<void> {
  refuseContradictions(flags);
  const isWriting = (flags.autoRepair === true || flags.clearNeedsCheckFlag === true) && !context.globals.dryRun;
  const host = await context.host();
  const place = await host.locateMetadata(from);
  const { openMetadata } = await import("../../host/index.js");
  const access = { snapshot: flags.metadataSnap, forceReadOnly: flags.forceReadOnly, write: isWriting, host };
  await using opened = await openMetadata(place, access).catch((error: unknown) => {
    if (flags.compat === undefined || codeOf(error) !== "ENODATA") throw error;
    throw new StateError("ENODATA", "No metadata snapshot found.", { cause: error });
  });
  const report = await withPace(context, `check ${place.name}`, METADATA_BLOCK_BYTES, (pace) =>
    checkMetadata(opened.store, {
      pace,
      superblockOnly: flags.superBlockOnly === true,
      skipMappings: flags.skipMappings === true,
      ...(opened.superblock === 0 ? {} : { snapshot: opened.superblock }),
      ...(flags.overrideMappingRoot === undefined ? {} : { mappingRoot: flags.overrideMappingRoot }),
    }),
  );
  if (opened.mayBeOld && flags.metadataSnap === undefined) noteOld(context, opened);
  const mended = isWriting ? mend(opened, report, flags) : undefined;
  print(context, opened, { report, mended, flags });
  opened.confirm();
}

interface Checked {
  readonly report: CheckReport;
  readonly mended: Mended | undefined;
  readonly flags: CheckFlags;
}

function print(context: Context, opened: OpenedMetadata, { report, mended, flags }: Checked): void {
  const { dryRun, json, quiet } = context.globals;
  context.exitWith(statusOf(report, flags, mended));
  if (dryRun && flags.autoRepair === true) planMend(context, report);
  else if (flags.compat !== undefined) {
    const { lines, errors, status } = thinCheckLines(opened.store, report, flags, {
      freed: (mended?.freedBlocks ?? 0) > 0,
      clearedNeedsCheck: mended?.clearedNeedsCheck === true,
    });
    context.exitWith(status);
    if (quiet) return;
    context.lines(lines);
    for (const line of errors) context.streams.stderr.write(`${line}\n`);
  } else if (json) context.json(documentOf(opened, report, mended));
  else if (!quiet) context.lines(textOf(report, mended));
}

function refuseContradictions(flags: CheckFlags): void {
  const isChanging = flags.autoRepair === true ? "--auto-repair" : "--clear-needs-check-flag";
  if (flags.autoRepair !== true && flags.clearNeedsCheckFlag !== true) return;
  for (const [name, isGiven] of [
    ["--metadata-snap", flags.metadataSnap !== undefined],
    ["--force-read-only", flags.forceReadOnly === true],
    ["--override-mapping-root", flags.overrideMappingRoot !== undefined],
    ["--super-block-only", flags.superBlockOnly === true],
    ["--skip-mappings", flags.skipMappings === true],
  ] as const) {
    if (isGiven) {
      throw new UsageError(`check: ${isChanging} and ${name} exclude each other`, {
        hint: "changes are made only after all of the metadata was looked at",
      });
    }
  }
}

function statusOf(report: CheckReport, flags: CheckFlags, mended: Mended | undefined): number {
  if (report.verdict === "damaged") return EXIT_DAMAGED;
  if (report.verdict === "clean" || flags.ignoreNonFatalErrors === true) return 0;
  const isOnlyLeaks = report.findings.every(({ id, severity }) => severity === "note" || isLeak(id));
  return mended !== undefined && mended.freedBlocks > 0 && isOnlyLeaks ? 0 : EXIT_HARMLESS;
}

function isLeak(id: Finding["id"]): boolean {
  return id === "metadata-leak" || id === "data-leak";
}

/** Changes nothing where there is damage. */
function mend(opened: OpenedMetadata, report: CheckReport, flags: CheckFlags): Mended {
  const nothing = { freedBlocks: 0, clearedNeedsCheck: false };
  if (report.verdict === "damaged" || report.superblock === undefined) return nothing;
  const isClearing = report.superblock.needsCheck;
  const freedBlocks = flags.autoRepair === true ? leakedBlocks(report) : 0;
  const isLeftLeaking = report.verdict !== "clean" && flags.autoRepair !== true && flags.ignoreNonFatalErrors !== true;
  if ((freedBlocks === 0 && !isClearing) || isLeftLeaking) return nothing;
  if (report.superblock.compatRoFlags !== 0) {
    throw new StateError("EINVAL", `${opened.name}: compat_ro flags are set, it must not be changed`);
  }
  mendMetadata(opened.device, {
    ...(freedBlocks === 0 ? {} : { leaks: report.leaks }),
    clearNeedsCheck: isClearing,
  });
  return { freedBlocks, clearedNeedsCheck: isClearing };
}

function leakedBlocks({ leaks }: CheckReport): number {
  return [...leaks.metadata, ...leaks.data].reduce((sum, { begin, end }) => sum + end - begin, 0);
}

function planMend(context: Context, report: CheckReport): void {
  const plan = (["metadata", "data"] as const).flatMap((which) =>
    report.leaks[which].map(({ begin, end }) => `free ${which} blocks ${begin} to ${end - 1}`),
  );
  const refused = report.verdict === "damaged" ? ["nothing: there is damage, repair a copy first"] : plan;
  if (context.globals.json) context.json({ plan: refused });
  else context.lines(refused);
}

function textOf(report: CheckReport, mended: Mended | undefined): string[] {
  const lines: string[] = [];
  const { superblock, devices, mappings, metadataCounts, dataCounts } = report;
  if (superblock !== undefined) {
    const unit = formatBytes(superblock.dataBlockSectors * 512);
    lines.push(`transaction ${superblock.transactionId}, time ${superblock.time}, data blocks of ${unit}`);
  }
  if (devices !== undefined) {
    const mapped = mappings === undefined ? "" : `, ${mappings} mappings in ${report.leaves} leaves`;
    lines.push(`${devices} ${devices === 1 ? "device" : "devices"}${mapped}`);
  }
  for (const [name, counts] of [
    ["metadata", metadataCounts],
    ["data", dataCounts],
  ] as const) {
    if (counts !== undefined) lines.push(`${name}: ${counts.used} of ${counts.blocks} blocks used`);
  }
  for (const finding of report.findings) {
    lines.push(`${finding.severity} ${finding.id}: ${finding.message}`, `  ${finding.advice}`);
  }
  for (const { id, count } of report.omitted) lines.push(`${id}: ${count} more`);
  if (mended !== undefined && mended.freedBlocks > 0) lines.push(`freed ${mended.freedBlocks} leaked blocks`);
  if (mended?.clearedNeedsCheck === true) lines.push("cleared the needs_check flag");
  lines.push(VERDICTS[report.verdict]);
  return lines;
}

const VERDICTS: Readonly<Record<CheckReport["verdict"], string>> = {
  clean: "clean",
  harmless: "no damage; what was found is harmless",
  damaged: "damaged",
};

function documentOf(
  opened: OpenedMetadata,
  report: CheckReport,
  mended: Mended | undefined,
): DocumentOf<"metadataCheck"> {
  const { superblock, findings, omitted, verdict, metadataBlocks } = report;
  return {
    metadataCheck: {
      source: opened.name,
      pool: opened.pool ?? null,
      metadataSnapshot: opened.superblock === 0 ? null : opened.superblock,
      verdict,
      superblock:
        superblock === undefined ? null : { ...superblock, uuid: Buffer.from(superblock.uuid).toString("hex") },
      devices: report.devices ?? null,
      mappings: report.mappings ?? null,
      leaves: report.leaves ?? null,
      metadataBlocks,
      metadataCounts: report.metadataCounts ?? null,
      dataCounts: report.dataCounts ?? null,
      findings: findings.map((each) => JSON.parse(JSON.stringify(each))),
      omitted,
      leakedBlocks: leakedBlocks(report),
      ...(mended === undefined ? {} : mended),
    },
  };
}
