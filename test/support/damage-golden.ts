/**
 * The damage goldens: `test/golden/damage/CASE/` with a patch on one of the base images, a sentence, the recipe, and a
 * transcript of what the tools say and do. They are made anew by `npx tsx test/thin/tools/damage/make-goldens.ts`.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { crc32c } from "../../src/bytes/index.js";
import { COMMANDS } from "../../src/commands/index.js";
import { codeOf } from "../../src/errors/index.js";
import { MemoryDevice } from "../../src/io/index.js";
import {
  applyDamage,
  BlockStore,
  type CheckReport,
  checkMetadata,
  type DamagePlan,
  Pace,
  planDamage,
} from "../../src/thin/index.js";
import { type Ran, runMain } from "../commands/run-main.js";
import type { DamageBase } from "./damage-base.js";
import { METADATA_BLOCK_BYTES } from "./metadata-image.js";
import type { DumpModel } from "./pool-model.js";
import { judgeDifference } from "./thin-check-differences.js";
import { HAS_THIN_TOOLS, parseDump, thinCheckLater } from "./thin-tools.js";

export const GOLDEN_FOLDER = new URL("../golden/damage/", import.meta.url);
const BASE_ORDER: readonly DamageBase[] = ["usual", "many"];
const CASE_FILES = ["README.md", "expected.txt", "image.patch"] as const;
/** Equal bytes between two changed stretches that are written out rather than begun anew. */
const GAP_BYTES = 8;
const MIN_ZEROS = 64;
/** Findings of one kind in a transcript. */
const MAX_SHOWN = 6;
export const HAS_REPAIR = COMMANDS.some(({ family, name }) => family === "metadata" && name === "repair");

export type CaseFiles = Readonly<Record<(typeof CASE_FILES)[number], string>>;

export function basePath(base: DamageBase): URL {
  return new URL(`bases/${base}.img.gz`, GOLDEN_FOLDER);
}

const bases = new Map<DamageBase, Uint8Array>();

export function readBase(base: DamageBase): Uint8Array {
  const known = bases.get(base) ?? new Uint8Array(gunzipSync(readFileSync(basePath(base))));
  bases.set(base, known);
  return known;
}

export function goldenCases(): string[] {
  return readdirSync(GOLDEN_FOLDER, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && entry.name !== "bases")
    .map(({ name }) => name)
    .sort();
}

export function readGolden(id: string): CaseFiles {
  const read = (name: string) => {
    const path = new URL(`${id}/${name}`, GOLDEN_FOLDER);
    return existsSync(path) ? readFileSync(path, "utf8") : "";
  };
  return Object.fromEntries(CASE_FILES.map((name) => [name, read(name)])) as CaseFiles;
}

// --- images as patches ---

/**
 * The base it stands on, the size where it is another, and every changed stretch: offset in bytes, and the bytes in
 * hexadecimal, or how many zeros.
 */
export function makePatch(base: DamageBase, image: Uint8Array): string {
  const from = readBase(base);
  const lines = [`base ${base}`];
  if (image.length !== from.length) lines.push(`size ${image.length}`);
  const isChanged = (at: number) => image[at] !== (from[at] ?? 0);
  for (let at = 0; at < image.length; at++) {
    if (!isChanged(at)) continue;
    let end = at + 1;
    for (let next = end; next < Math.min(image.length, end + GAP_BYTES); next++) if (isChanged(next)) end = next + 1;
    const bytes = image.subarray(at, end);
    const isZero = bytes.length >= MIN_ZEROS && bytes.every((byte) => byte === 0);
    lines.push(isZero ? `${at} zeros ${bytes.length}` : `${at} ${Buffer.from(bytes).toString("hex")}`);
    at = end - 1;
  }
  return `${lines.join("\n")}\n`;
}

export function applyPatch(patch: string): Uint8Array {
  const lines = patch
    .trimEnd()
    .split("\n")
    .map((line) => line.split(" "));
  const [head, ...rest] = lines;
  const base = readBase(head![1] as DamageBase);
  const [first] = rest;
  const image = new Uint8Array(first?.[0] === "size" ? Number(first[1]) : base.length);
  image.set(base.subarray(0, image.length));
  for (const [at, bytes, count] of rest) {
    if (at === "size") continue;
    if (bytes === "zeros") image.fill(0, Number(at), Number(at) + Number(count));
    else image.set(Buffer.from(bytes!, "hex"), Number(at));
  }
  return image;
}

// --- making one ---

export interface Damaged {
  readonly base: DamageBase;
  readonly plan: DamagePlan;
  readonly image: Uint8Array;
}

export function seedOfCase(id: string): number {
  return crc32c(new DataView(new TextEncoder().encode(id).buffer), 0) % 1000;
}

/** The first base that has what the case needs, damaged. */
export function damageBase(id: string): Damaged {
  for (const base of BASE_ORDER) {
    const bytes = readBase(base);
    const device = new MemoryDevice({ sizeBytes: bytes.length });
    device.sync.write(0, bytes);
    try {
      const plan = planDamage(new BlockStore(device), id, seedOfCase(id));
      applyDamage({ name: id, sync: device.sync, resize: (sizeBytes) => device.resize(sizeBytes) }, plan);
      const image = new Uint8Array(device.sizeBytes);
      if (image.length > 0) device.sync.read(0, image);
      return { base, plan, image };
    } catch (error) {
      if (codeOf(error) !== "ENODATA") throw error;
    }
  }
  throw new Error(`${id}: no base has what it needs`);
}

/** What our check says, as a library; undefined when it could not look. */
export async function reportOf(image: Uint8Array): Promise<CheckReport | undefined> {
  if (image.length < METADATA_BLOCK_BYTES) return undefined;
  const device = new MemoryDevice({ sizeBytes: image.length });
  device.sync.write(0, image);
  return checkMetadata(new BlockStore(device), { pace: new Pace() });
}

function readmeOf({ base, plan }: Damaged, theirs: string): string {
  const { id, what, area, isSealed } = plan.case;
  return `# ${id}

${what}

- part: ${area}; checksums: ${isSealed ? "right" : "not all right"}
- hit: ${plan.hits.join("; ")}
- recipe: \`udm metadata damage copy.img --case ${id} --seed ${plan.seed}\`, on a copy of \`bases/${base}.img.gz\`
- thin_check 0.9: ${theirs}
`;
}

/** What thin_check said of the image beside our check, in words. */
async function comparedWithThinCheck(image: Uint8Array, said: string | undefined): Promise<string> {
  const report = await reportOf(image);
  if (report === undefined) return said === undefined ? "finds nothing" : "damage, as udm";
  const verdict = judgeDifference(report, said);
  if (verdict.kind === "agreed") return said === undefined ? "finds nothing, as udm" : "damage, as udm";
  if (verdict.kind === "unexplained") return `UNEXPLAINED: ${verdict.why}`;
  return `${said === undefined ? "finds nothing" : "damage"}. ${verdict.right} is right: ${verdict.reasons.join("; ")}`;
}

// --- the transcript ---

/** Of findings of one kind the first ones; each is a line, and one with what to do. */
function shortened(lines: readonly string[]): string[] {
  const seen = new Map<string, number>();
  const kept: string[] = [];
  let isKept = true;
  for (const line of lines) {
    const kind = /^(?:damage|harmless|note) ([a-z-]+): /.exec(line)?.[1];
    if (kind !== undefined) {
      const count = (seen.get(kind) ?? 0) + 1;
      seen.set(kind, count);
      isKept = count <= MAX_SHOWN;
    } else if (!line.startsWith("  ")) isKept = true;
    if (isKept) kept.push(line);
  }
  for (const [kind, count] of seen) if (count > MAX_SHOWN) kept.push(`(and ${count - MAX_SHOWN} more of ${kind})`);
  return kept;
}

class Transcript {
  readonly #lines: string[] = [];

  constructor(readonly folder: string) {}

  async udm(line: string): Promise<Ran> {
    const { folder } = this;
    const environment = { UDM_STATE_DIR: join(folder, "state"), UDM_RUN_DIR: join(folder, "run") };
    const words = line.split(" ").map((word) => word.replace("@", `${folder}/`));
    const ran = await runMain(["metadata", ...words], { environment });
    const text = `${ran.stdout}${ran.stderr}`.replaceAll(`${folder}/`, "");
    this.#lines.push(`$ udm metadata ${line.replaceAll("@", "")}`, ...shortened(text.trimEnd().split("\n")));
    this.#lines.push(`exit status ${ran.status}`, "");
    return ran;
  }

  /** Left out where the tool is not installed; `withoutThinCheck` takes it out of what is expected too. */
  async thinCheck(name: string): Promise<string | undefined> {
    if (!HAS_THIN_TOOLS) return undefined;
    const said = await thinCheckLater(join(this.folder, name));
    this.#lines.push(`$ thin_check ${name}: ${said === undefined ? "clean" : "damage"}`, "");
    return said;
  }

  say(...lines: readonly string[]): void {
    this.#lines.push(...lines, "");
  }

  get text(): string {
    return `${this.#lines.join("\n").trimEnd()}\n`;
  }
}

/** The files of a case; the folder is empty, and left with images in it. */
export async function makeGolden(id: string, folder: string): Promise<CaseFiles> {
  const damaged = damageBase(id);
  const { text, said } = await transcriptOf(damaged, folder);
  const patch = makePatch(damaged.base, damaged.image);
  if (Buffer.compare(applyPatch(patch), damaged.image) !== 0)
    throw new Error(`${id}: the patch does not give the image`);
  return {
    "README.md": readmeOf(damaged, await comparedWithThinCheck(damaged.image, said)),
    "expected.txt": text,
    "image.patch": patch,
  };
}

/** Everything the tools say and do, first and second time; and what thin_check said first. */
async function transcriptOf(
  { base, image }: Damaged,
  folder: string,
): Promise<{ readonly text: string; readonly said: string | undefined }> {
  const path = join(folder, "image");
  writeFileSync(path, image);
  const transcript = new Transcript(folder);
  const { status, stdout } = await transcript.udm("check @image");
  const said = await transcript.thinCheck("image");
  const canBeMended = status !== 3 && status !== 1;
  if (canBeMended && /-leak: |needs-check: /.test(stdout)) {
    await transcript.udm("check @image --auto-repair");
    await transcript.udm("check @image");
    await transcript.thinCheck("image");
    transcript.say(...differenceFromBase(base, await dumpOf(folder, "image")));
  } else if (HAS_REPAIR && status !== 0) await repair(transcript, base, folder);
  return { text: transcript.text, said };
}

async function repair(transcript: Transcript, base: DamageBase, folder: string): Promise<void> {
  const line = "repair -i @image -o @repaired --no-backup";
  const first = await transcript.udm(line);
  // What only the superblock knew has to be told.
  const second = first.status === 0 ? first : await transcript.udm(`${line} --data-block-size 128`);
  if (second.status !== 0) return;
  await transcript.udm("check @repaired");
  await transcript.thinCheck("repaired");
  transcript.say(...differenceFromBase(base, await dumpOf(folder, "repaired")));
}

async function dumpOf(folder: string, name: string): Promise<DumpModel> {
  const environment = { UDM_STATE_DIR: join(folder, "state"), UDM_RUN_DIR: join(folder, "run") };
  return parseDump((await runMain(["metadata", "dump", join(folder, name)], { environment })).stdout);
}

/** What a transcript says at its end: mappings kept and lost, and whether some came up or lead elsewhere. */
export function outcomeOf(
  text: string,
): { readonly kept: number; readonly lost: number; readonly isTrue: boolean } | undefined {
  const match = /^kept (\d+) mappings, lost (\d+)$/m.exec(text);
  if (match === null) return undefined;
  return { kept: Number(match[1]), lost: Number(match[2]), isTrue: !/came up|lead elsewhere/.test(text) };
}

/** Mappings of the live pool that lie in the ranges a check names as lost. */
export function mappingsIn(base: DamageBase, report: CheckReport): number {
  const devices = new Map(baseModels.get(base)!.devices.map((device) => [device.id, device]));
  const lost = new Set<string>();
  for (const { affected } of report.findings) {
    for (const { device, held, begin, end = Number.POSITIVE_INFINITY } of affected ?? []) {
      if (held || begin === end) continue;
      for (const [virtual] of devices.get(device)?.mappings ?? []) {
        if (virtual >= begin && virtual < end) lost.add(`${device}/${virtual}`);
      }
    }
  }
  return lost.size;
}

const baseModels = new Map<DamageBase, DumpModel>();

export async function baseModel(base: DamageBase, folder: string): Promise<DumpModel> {
  const known = baseModels.get(base);
  if (known !== undefined) return known;
  writeFileSync(join(folder, "base"), readBase(base));
  const model = await dumpOf(folder, "base");
  baseModels.set(base, model);
  return model;
}

/** What was lost and what came up, in the words of the dump. */
function differenceFromBase(base: DamageBase, found: DumpModel): string[] {
  const wanted = baseModels.get(base)!;
  const lines: string[] = [];
  for (const name of ["time", "transactionId", "dataBlockSectors", "dataBlocks"] as const) {
    if (wanted[name] !== found[name]) lines.push(`${name} was ${wanted[name]}, is ${found[name]}`);
  }
  const left = new Map(found.devices.map((device) => [device.id, device]));
  let kept = 0;
  let lost = 0;
  for (const device of wanted.devices) {
    const now = left.get(device.id);
    left.delete(device.id);
    if (now === undefined) {
      lines.push(`device ${device.id}: lost, with ${device.mappings.length} mappings`);
      lost += device.mappings.length;
      continue;
    }
    for (const name of ["mappedBlocks", "transactionId", "creationTime", "snapshottedTime"] as const) {
      if (now[name] !== device[name]) lines.push(`device ${device.id}: ${name} was ${device[name]}, is ${now[name]}`);
    }
    const present = new Map(now.mappings.map(([virtual, data, time]) => [virtual, [data, time]]));
    const gone: number[] = [];
    let changed = 0;
    let ofAnotherTime = 0;
    for (const [virtual, data, time] of device.mappings) {
      const is = present.get(virtual);
      present.delete(virtual);
      if (is === undefined) gone.push(virtual);
      else if (is[0] !== data) changed++;
      else {
        kept++;
        if (is[1] !== time) ofAnotherTime++;
      }
    }
    lost += gone.length;
    if (gone.length > 0) {
      lines.push(`device ${device.id}: ${gone.length} mappings lost, of blocks ${gone[0]} to ${gone.at(-1)}`);
    }
    if (changed > 0) lines.push(`device ${device.id}: ${changed} mappings lead elsewhere`);
    if (ofAnotherTime > 0) lines.push(`device ${device.id}: ${ofAnotherTime} mappings are of another time`);
    if (present.size > 0) lines.push(`device ${device.id}: ${present.size} mappings came up`);
  }
  for (const { id, mappings } of left.values()) lines.push(`device ${id}: came up, with ${mappings.length} mappings`);
  return [`kept ${kept} mappings, lost ${lost}`, ...lines];
}

/** Without the lines that only somebody with thin_check can compare. */
export function withoutThinCheck(text: string): string {
  return text.replace(/\$ thin_check .*\n\n?/g, "");
}
