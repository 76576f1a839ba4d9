/** thin-pool META DATA BLOCK LOWWATER [N FEATURE...]: checks in the order of the kernel's target. */
import { type Code, codeOf, UdmError } from "../errors/index.js";
import type { BlockDevice } from "../io/index.js";
import { NO_FEATURES, Pool, type PoolConfig, type PoolFeatures } from "../thin/index.js";
import { SECTOR_BYTES } from "../units/index.js";
import { stretchOf } from "./stretch.js";
import type { OpenContext, Target, TargetLine, TargetType } from "./target.js";
import { asCode, parseDecimal, refuse, toNumber } from "./words.js";

export const MIN_DATA_BLOCK_SECTORS = 128;
export const MAX_DATA_BLOCK_SECTORS = 2097152;

const MAX_FEATURES = 4;
const FEATURES: readonly (readonly [word: string, key: keyof PoolFeatures])[] = [
  ["skip_block_zeroing", "skipBlockZeroing"],
  ["ignore_discard", "ignoreDiscard"],
  ["no_discard_passdown", "noDiscardPassdown"],
  ["read_only", "readOnly"],
  ["error_if_no_space", "errorIfNoSpace"],
];

const BLOCK_HINT = "the block size is 128 to 2097152 sectors (64k to 1g), a multiple of 128 (64k)";

export const THIN_POOL: TargetType = {
  name: "thin-pool",
  version: "1.22.0",
  isSingleton: true,
  isImmutable: true,
  alwaysWritable: true,
  async parse(line, context) {
    const no = (reason: string, code: Code = "EINVAL", hint?: string, cause?: unknown) =>
      refuse("thin-pool", reason, code, hint, cause);
    const { args } = line;
    if (args.length < 4) {
      throw no("Invalid argument count", "EINVAL", "thin-pool META DATA BLOCK LOWWATER [N FEATURE...]");
    }
    const [metadataWord, dataWord, blockWord, lowWaterWord, ...rest] = args as [string, string, string, string];
    if (metadataWord === dataWord) {
      throw no("Error setting metadata or data device", "EINVAL", "metadata and data need a device each");
    }
    const features = parseFeatures(rest);
    const metadata = await context.find(metadataWord).catch((error: unknown) => {
      throw no("Error opening metadata block device", asCode(codeOf(error)), deviceHint(metadataWord, error), error);
    });
    const data = await context.find(dataWord).catch((error: unknown) => {
      throw no("Error getting data device", asCode(codeOf(error)), deviceHint(dataWord, error), error);
    });
    if (metadata.number === data.number) {
      throw no("Error setting metadata or data device", "EINVAL", "metadata and data need a device each");
    }
    const block = parseDecimal(blockWord, { plus: true });
    if (
      block === undefined ||
      block < BigInt(MIN_DATA_BLOCK_SECTORS) ||
      block > BigInt(MAX_DATA_BLOCK_SECTORS) ||
      block % BigInt(MIN_DATA_BLOCK_SECTORS) !== 0n
    ) {
      throw no("Invalid block size", "EINVAL", BLOCK_HINT);
    }
    const lowWater = parseDecimal(lowWaterWord, { plus: true });
    if (lowWater === undefined) throw no("Invalid low water mark", "EINVAL", "a number of data blocks");

    const user = context.poolOn(metadata.number);
    const own = context.poolOf(context.deviceNumber);
    if (user !== undefined && user.deviceNumber !== context.deviceNumber) {
      throw no("metadata device already in use by a pool", "EBUSY", `by ${user.deviceName}`);
    }
    if (own !== undefined) {
      if (own.metadata === metadata.number && own.data !== data.number) {
        throw no("data device already in use by a pool", "EBUSY", `this pool's data is on ${own.data}`);
      }
      if (own.metadata !== metadata.number) {
        throw no("different pool cannot replace a pool", "EINVAL", "remove the pool first");
      }
    }
    return [metadata.number, data.number, String(block), String(lowWater), ...featureWords(features)];
  },
  devices: ([metadata, data]) => [metadata!, data!],
  areas: ({ args: [, data], startSectors, lengthSectors }) => [
    { device: data!, startSectors, startText: String(startSectors), lengthSectors },
  ],
  tableText: (args) => `${args.join(" ")} `,
  open: openPool,
};

/** Configuration that a parsed line asks for. */
export function poolConfigOf(line: TargetLine): PoolConfig {
  const [, , block, lowWater, ...rest] = line.args;
  return {
    lengthSectors: line.lengthSectors,
    dataBlockSectors: Number(block),
    lowWaterBlocks: toNumber(BigInt(lowWater!)),
    features: parseFeatures(rest),
  };
}

/** Words of a pool's line. Source: thin-engine, 8.2. */
export function poolArgs(options: {
  readonly metadata: string;
  readonly data: string;
  readonly dataBlockSectors: number;
  readonly lowWaterBlocks: number;
  readonly features: PoolFeatures;
}): readonly string[] {
  const { metadata, data, dataBlockSectors, lowWaterBlocks, features } = options;
  return [metadata, data, String(dataBlockSectors), String(lowWaterBlocks), ...featureWords(features)];
}

/** Which word it is, and what helps. */
function deviceHint(word: string, error: unknown): string {
  const hint = error instanceof UdmError ? error.hint : undefined;
  return hint === undefined ? word : `${word}: ${hint}`;
}

function featureWords(features: PoolFeatures): string[] {
  const words = FEATURES.filter(([, key]) => features[key]).map(([word]) => word);
  return [String(words.length), ...words];
}

function parseFeatures(words: readonly string[]): PoolFeatures {
  const [countWord, ...names] = words;
  if (countWord === undefined) return NO_FEATURES;
  const count = parseDecimal(countWord, { plus: true });
  if (count === undefined || count > BigInt(MAX_FEATURES) || count > BigInt(names.length)) {
    throw refuse(
      "thin-pool",
      "Invalid number of pool feature arguments",
      "EINVAL",
      `the number of features comes first, at most ${MAX_FEATURES}`,
    );
  }
  const chosen: { -readonly [K in keyof PoolFeatures]: boolean } = { ...NO_FEATURES };
  for (const name of names.slice(0, Number(count))) {
    const feature = FEATURES.find(([word]) => word === name.toLowerCase());
    if (feature === undefined) {
      throw refuse(
        "thin-pool",
        "Unrecognised pool feature requested",
        "EINVAL",
        `'${name}' is none of ${FEATURES.map(([word]) => word).join(", ")}`,
      );
    }
    chosen[feature[1]] = true;
  }
  return chosen;
}

async function openPool(line: TargetLine, context: OpenContext): Promise<Target> {
  const [metadataNumber, dataNumber] = line.args;
  const config = poolConfigOf(line);
  const own = context.ownPool();
  const data = await context.open(dataNumber!, { readOnly: false });
  let pool = own?.pool;
  if (pool === undefined) {
    const metadata = await context.open(metadataNumber!, { readOnly: config.features.readOnly });
    if (!config.features.readOnly) refuseReadOnly(metadata, data);
    try {
      pool = Pool.load({
        name: context.deviceNumber,
        metadata,
        data,
        config,
        ...(context.runtime === undefined ? {} : { runtime: context.runtime }),
        log: context.log,
        onEvent: context.onEvent,
        ...(context.onNote === undefined ? {} : { onNote: context.onNote }),
        ...(context.noSpaceTimeoutMs === undefined ? {} : { noSpaceTimeoutMs: context.noSpaceTimeoutMs }),
        ...(context.cacheBlocks === undefined ? {} : { cacheBlocks: context.cacheBlocks }),
        ...(context.holdsCommits === undefined ? {} : { holdsCommits: context.holdsCommits }),
      });
    } catch (error) {
      if (!(error instanceof UdmError)) throw error;
      throw refuse("thin-pool", `Error creating metadata object: ${error.message}`, error.code, error.hint, error);
    }
  }
  const service = pool;
  const device = stretchOf(data, { offsetBytes: 0, lengthBytes: line.lengthSectors * SECTOR_BYTES });
  return {
    device,
    pool: service,
    status: (options) => service.statusParams(options),
    async message(words) {
      await service.message(words);
      return undefined;
    },
    preResume: () => service.resume(config),
    suspend: (options) => service.suspend(options),
    close: () => service.close(),
  };
}

function refuseReadOnly(metadata: BlockDevice, data: BlockDevice): void {
  const hint = "give the pool a device that can be written, or the feature read_only";
  if (metadata.isReadOnly) {
    throw refuse("thin-pool", `Error opening metadata block device: ${metadata.name} is read-only`, "EACCES", hint);
  }
  if (data.isReadOnly) {
    throw refuse("thin-pool", `Error getting data device: ${data.name} is read-only`, "EACCES", hint);
  }
}
