/** `udm metadata damage`: damages a copy of a pool's metadata on purpose, for drills. */
import { Command, Option } from "commander";
import { StateError, UsageError } from "../../errors/index.js";
import { setFileSize } from "../../io/index.js";
import { applyDamage, BlockStore, DAMAGE_CASES, type DamagePlan, damageCase, planDamage } from "../../thin/index.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";

interface DamageFlags {
  readonly case?: string;
  readonly seed?: number;
  readonly list?: boolean;
}

export function damageCommand(context: Context): Command {
  return new Command("damage")
    .description(
      "Damages a copy of a pool's metadata on purpose: a drill for repair. What is hit depends on the case, the seed and the copy alone. The metadata of a pool that udm knows is refused, and so is what anybody has open.",
    )
    .argument("[copy]", "file or block device with a copy of a pool's metadata")
    .option("--case <id>", "what is to go bad; --list tells the cases")
    .addOption(
      new Option("--seed <number>", "another number hits another place (default 1)").argParser(countOf("seed")),
    )
    .option("--list", "print the cases: id, what part it is about, what is wrong afterwards")
    .action((copy: string | undefined, flags: DamageFlags) => damage(context, copy, flags));
}

async function damage(context: Context, copy: string | undefined, flags: DamageFlags): Promise<void> {
  if (flags.list === true) {
    list(context);
    return;
  }
  if (copy === undefined || flags.case === undefined) {
    throw new UsageError(`metadata damage: no ${copy === undefined ? "copy" : "--case"} is given`, {
      hint: "udm metadata damage COPY --case ID; --list tells the cases",
    });
  }
  damageCase(flags.case);
  const host = await context.host();
  const place = await host.locateMetadata(copy);
  if (place.pool !== undefined) {
    throw new StateError("EBUSY", `${copy}: holds the metadata of pool '${place.pool}'`, {
      hint: "copy it into a file, and damage the copy",
    });
  }
  const { openPlace } = await import("../../host/index.js");
  const opened = openPlace(place, { write: context.globals.dryRun !== true, role: "copy to damage" });
  try {
    const plan = planDamage(new BlockStore(opened.device), flags.case, flags.seed);
    if (context.globals.dryRun) {
      if (context.globals.json) context.json({ plan: [...plan.hits] });
      else context.lines([...plan.hits]);
      return;
    }
    await context.confirm(`damage the pool metadata on '${place.name}' (${plan.case.id}: ${plan.hits.join("; ")})`);
    const isWholeFile = place.offsetBytes === 0 && place.sizeBytes === undefined;
    applyDamage(
      {
        name: place.name,
        sync: opened.device.sync,
        resize: isWholeFile ? (sizeBytes) => void setFileSize(place.path, sizeBytes) : undefined,
      },
      plan,
    );
    tell(context, place.name, plan);
  } finally {
    await opened.close();
  }
}

function tell(context: Context, name: string, plan: DamagePlan): void {
  if (context.globals.json) {
    context.json({ damage: { target: name, case: plan.case.id, seed: plan.seed, hits: [...plan.hits] } });
  } else if (!context.globals.quiet) {
    context.lines([`${plan.case.id}: ${plan.case.what}`, ...plan.hits.map((hit) => `  ${hit}`)]);
  }
}

function list(context: Context): void {
  if (context.globals.json) {
    context.json({ cases: DAMAGE_CASES.map(({ id, area, what, isSealed }) => ({ id, area, what, sealed: isSealed })) });
    return;
  }
  const width = (texts: readonly string[]) => Math.max(...texts.map((text) => text.length));
  const ids = width(DAMAGE_CASES.map(({ id }) => id));
  const areas = width(DAMAGE_CASES.map(({ area }) => area));
  context.lines(DAMAGE_CASES.map(({ id, area, what }) => `${id.padEnd(ids)}  ${area.padEnd(areas)}  ${what}`));
}
