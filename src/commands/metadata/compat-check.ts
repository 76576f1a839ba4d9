/**
 * `udm metadata check --compat thin_check`: the lines and exit status of thin_check 0.9. Damage that it does not look for
 * (counts of data blocks, mapped blocks, mappings behind the data) fails too, with a line of the same form.
 */
import {
  type Affected,
  BlockBuffer,
  type BlockStore,
  type CheckReport,
  capacityOf,
  checksumAs,
  entriesOf,
  type Finding,
  Kind,
  keyOf,
  nodeValueSize,
  readSuperblock,
} from "../../thin/index.js";

export interface CompatFlags {
  readonly superBlockOnly?: boolean;
  readonly skipMappings?: boolean;
  readonly ignoreNonFatalErrors?: boolean;
  readonly metadataSnap?: true | number;
  readonly autoRepair?: boolean;
  readonly clearNeedsCheckFlag?: boolean;
}

export interface CompatOutput {
  /** Standard output. */
  readonly lines: readonly string[];
  /** Standard error. */
  readonly errors: readonly string[];
  readonly status: number;
}

export function thinCheckLines(
  store: BlockStore,
  report: CheckReport,
  flags: CompatFlags,
  mended: { readonly freed: boolean; readonly clearedNeedsCheck: boolean },
): CompatOutput {
  const { superblock, findings } = report;
  const errors = ["examining superblock"];
  const inSuperblock = findings.filter(({ id }) => id === "superblock-damaged" || id === "superblock-blank");
  if (superblock === undefined) {
    return {
      lines: [],
      errors: [
        ...errors,
        "  superblock is corrupt",
        ...inSuperblock.map((each) => `    ${blockText(store, each)}`),
        ...(looksLikeXml(store) ? ["This looks like XML.  thin_check only checks the binary metadata format."] : []),
        ...unexamined(flags),
      ],
      status: 1,
    };
  }
  // A metadata snapshot has no space maps; the pool it belongs to has.
  const mapped = (flags.metadataSnap === undefined ? undefined : readSuperblock(store).values) ?? superblock;
  const lines = [
    `TRANSACTION_ID=${superblock.transactionId}`,
    `METADATA_FREE_BLOCKS=${mapped.metadataMap.nrBlocks - 1}`,
  ];
  const isFailing = findings.some(
    ({ id, severity }) =>
      severity === "damage" || (severity === "harmless" && isFatal(id) && flags.ignoreNonFatalErrors !== true),
  );
  const status = isFailing && !(mended.freed && report.verdict === "harmless") ? 1 : 0;
  if (flags.superBlockOnly !== true) {
    errors.push("examining devices tree", ...treeLines(store, findings, "details tree"));
    errors.push(flags.skipMappings === true ? "examining top level of mapping tree" : "examining mapping tree");
    errors.push(...treeLines(store, findings, "tree of devices"), ...mappingLines(store, findings, flags));
    const areTreesWhole = !findings.some(({ id }) => id === "tree-damaged" || id === "mappings-damaged");
    if (areTreesWhole && flags.skipMappings !== true && flags.metadataSnap === undefined) {
      errors.push("checking space map counts", ...countLines(store, findings));
      errors.push(...inSuperblock.map((each) => blockText(store, each)));
    }
    if (!areTreesWhole) errors.push(...unexamined(flags));
  }
  if (mended.freed) errors.push("fixed metadata leaks");
  if (mended.clearedNeedsCheck) errors.push("cleared needs_check flag");
  return { lines, errors, status };
}

/** Once for each of the two changes that were wanted; freeing leaks stands for both. */
function unexamined({ autoRepair, clearNeedsCheckFlag }: CompatFlags): string[] {
  const line = "metadata has not been fully examined";
  return autoRepair === true ? [line, line] : clearNeedsCheckFlag === true ? [line] : [];
}

function looksLikeXml(store: BlockStore): boolean {
  const buffer = new BlockBuffer(1);
  store.loadOne(0, buffer);
  return /^<(superblock|\?xml)/.test(Buffer.from(buffer.bytes.subarray(0, 64)).toString("latin1"));
}

/** What thin_check calls an error that may be ignored; the rest of what is harmless it does not look at. */
function isFatal(id: Finding["id"]): boolean {
  return id === "metadata-leak" || id === "data-leak" || id === "node-underfull";
}

function treeLines(store: BlockStore, findings: readonly Finding[], tree: string): string[] {
  return findings.flatMap((finding) => {
    const lost = finding.lostDevices;
    if (lost === undefined || !lost.tree.endsWith(tree)) return [];
    const what = tree === "details tree" ? "missing devices" : "missing all mappings for devices";
    return [`  ${what}: ${range(lost.low, lost.high)}`, `    ${blockText(store, finding)}`];
  });
}

function mappingLines(store: BlockStore, findings: readonly Finding[], flags: CompatFlags): string[] {
  const lost: { readonly affected: Affected; readonly finding: Finding }[] = [];
  const others: string[] = [];
  for (const finding of findings) {
    switch (finding.id) {
      case "mappings-damaged":
        for (const affected of finding.affected ?? []) lost.push({ affected, finding });
        break;
      case "node-underfull":
        if (flags.ignoreNonFatalErrors !== true) others.push(`  ${underfullText(store, finding.block!)}`);
        break;
      case "device-mapped-count":
      case "device-without-details":
      case "device-without-mappings":
      case "mapping-outside-data":
      case "depth-uneven":
        others.push(`  ${finding.message}`);
        break;
      default:
    }
  }
  lost.sort((a, b) => a.affected.device - b.affected.device || a.affected.begin - b.affected.begin);
  return [
    ...lost.flatMap(({ affected, finding }) => [
      `  thin device ${affected.device} is missing mappings ${range(affected.begin, affected.end)}`,
      `    ${blockText(store, finding)}`,
    ]),
    ...others,
  ];
}

function countLines(store: BlockStore, findings: readonly Finding[]): string[] {
  return findings.flatMap((finding) => {
    switch (finding.id) {
      case "space-map-damaged":
        return [finding.problem === undefined ? finding.message : blockText(store, finding)];
      case "metadata-leak":
      case "metadata-count":
      case "data-leak":
      case "data-count": {
        const { begin, end } = finding.blocks!;
        const found = `expected ${finding.owners ?? 0}, but got ${finding.stored ?? 0}`;
        if (finding.id.startsWith("data")) {
          return [`  data reference counts differ for blocks [${begin}, ${end}), ${found}`];
        }
        return Array.from(
          { length: Math.min(end - begin, MAX_LINES) },
          (_, index) => `  metadata reference counts differ for block ${begin + index}, ${found}`,
        );
      }
      case "overflow-count":
        return [`  ${finding.message}`];
      default:
        return [];
    }
  });
}

const MAX_LINES = 10_000;

function range(begin: number, end: number | undefined): string {
  return `[${begin}, ${end ?? "-"}]`;
}

const KIND_WORDS = {
  Superblock: "superblock",
  Node: "btree node",
  Bitmap: "space map bitmap",
  Index: "metadata index block",
} as const;

function blockText(store: BlockStore, finding: Finding): string {
  const block = finding.block ?? 0;
  const kind = finding.kind ?? "Superblock";
  const { words, crc } = load(store, block);
  const name = KIND_WORDS[kind];
  switch (finding.problem) {
    case "Outside":
      if (block === 0) return "bad checksum in btree node (block 0)";
      return `block out of bounds (${block} >= ${store.nrBlocks})\n`;
    case "Number":
      return kind === "Node"
        ? `bad block nr in btree node (block = ${block})`
        : `bad block nr in ${name} (block ${block})`;
    case "Flags":
      return `btree node is both internal and leaf (block ${block})`;
    case "Entries":
      return `bad nr_entries: ${entriesOf(words, 0)} < ${capacityOf(words, 0)} (block ${block})`;
    case "Capacity":
      return capacityText(capacityOf(words, 0), block);
    case "ValueSize":
      return `value size mismatch: expected 8, but got ${nodeValueSize(words, 0)} (block ${block}).`;
    case "KeyOrder":
      return orderText(words, block);
    case "KeyRange":
      return `parent key mismatch: parent was ${finding.affected?.[0]?.begin ?? 0}, but lowest in node was ${keyOf(words, 0, 0)} (block ${block})`;
    case "Checksum":
    case undefined:
      return kind === "Superblock"
        ? `bad checksum in superblock, wanted ${crc}`
        : `bad checksum in ${name} (block ${block})`;
    default:
      return finding.message;
  }
}

function load(store: BlockStore, block: number): { readonly words: Uint32Array; readonly crc: number } {
  const buffer = new BlockBuffer(1);
  store.loadOne(block, buffer);
  return { words: buffer.words, crc: checksumAs(Kind.Superblock, buffer) };
}

function capacityText(max: number, block: number): string {
  return max % 3 === 0 || max > 252
    ? `max entries too large: ${max} (block ${block})`
    : `max entries is not divisible by 3: ${max} (block ${block})`;
}

function orderText(words: Uint32Array, block: number): string {
  for (let index = 1; index < entriesOf(words, 0); index++) {
    const [before, key] = [keyOf(words, 0, index - 1), keyOf(words, 0, index)];
    if (key <= before) return `keys are out of order, ${key} <= ${before} (block ${block})`;
  }
  return `keys are out of order (block ${block})`;
}

function underfullText(store: BlockStore, block: number): string {
  const { words } = load(store, block);
  const max = capacityOf(words, 0);
  return `too few entries in btree_node: ${entriesOf(words, 0)}, expected at least ${Math.floor(max / 3)} (block ${block}, max_entries = ${max})`;
}
