/**
 * Repair against images that a kernel and the engine wrote: every block destroyed in turn, several at once, roots and
 * superblocks gone. What comes out is clean, and holds nothing that was not there.
 */
import { describe, expect, test } from "vitest";
import { MemoryDevice } from "../../../src/io/index.js";
import { METADATA_BLOCK_BYTES } from "../../../src/persistent-data/index.js";
import {
  BlockStore,
  type Candidate,
  checkMetadata,
  findCandidates,
  type HeadOverrides,
  Pace,
  readSuperblock,
  repairMetadata,
} from "../../../src/thin/index.js";
import { readGoldenRun } from "../../support/golden-images.js";
import { HAS_THIN_TOOLS, thinCheck, thinDump } from "../../support/thin-tools.js";

type Model = ReturnType<typeof thinDump>;

function deviceOf(image: Uint8Array): MemoryDevice {
  const device = new MemoryDevice({ name: "image", sizeBytes: image.length });
  device.sync.write(0, image);
  return device;
}

interface Repair {
  readonly candidates: readonly Candidate[];
  readonly image: Uint8Array;
}

async function repair(image: Uint8Array, overrides: HeadOverrides = {}, choice = 0): Promise<Repair> {
  const pace = new Pace();
  const { forest, candidates } = await findCandidates(new BlockStore(deviceOf(image)), { overrides, pace });
  const candidate = candidates[choice];
  if (candidate === undefined) return { candidates, image: new Uint8Array(0) };
  const output = deviceOf(new Uint8Array(image.length));
  await repairMetadata(output, { forest, candidate, pace });
  const repaired = new Uint8Array(image.length);
  output.sync.read(0, repaired);
  return { candidates, image: repaired };
}

async function verdictOf(image: Uint8Array): Promise<string> {
  const { verdict, findings } = await checkMetadata(new BlockStore(deviceOf(image)), { pace: new Pace() });
  return findings.length === 0 ? verdict : `${verdict}: ${findings.map(({ message }) => message).join("; ")}`;
}

const kernelRandom = readGoldenRun("kernel-random/run.json.br").run.checkpoints.at(-1)!.metadata;
const kernelTrace = readGoldenRun("kernel-trace/run.json.br").run.checkpoints.at(-1)!.metadata;

/** Blocks that the image uses, by what the metadata space map says. */
function usedBlocks(image: Uint8Array): number[] {
  const used: number[] = [];
  for (let blocknr = 0; blocknr * METADATA_BLOCK_BYTES < image.length; blocknr++) {
    const block = image.subarray(blocknr * METADATA_BLOCK_BYTES, (blocknr + 1) * METADATA_BLOCK_BYTES);
    if (block.some((byte) => byte !== 0)) used.push(blocknr);
  }
  return used;
}

function without(image: Uint8Array, ...blocks: readonly number[]): Uint8Array {
  const copy = image.slice();
  for (const blocknr of blocks) copy.fill(0xa5, blocknr * METADATA_BLOCK_BYTES, (blocknr + 1) * METADATA_BLOCK_BYTES);
  return copy;
}

/** Mappings of a dump that another one does not have. */
function inventedMappings(model: Model, original: Model): string[] {
  const invented: string[] = [];
  for (const device of model.devices) {
    const known = new Map(
      original.devices.find(({ id }) => id === device.id)?.mappings.map(([v, d, t]) => [v, `${d}/${t}`]),
    );
    for (const [virtual, data, time] of device.mappings) {
      if (known.get(virtual) !== `${data}/${time}`) invented.push(`${device.id}: ${virtual} -> ${data}/${time}`);
    }
  }
  return invented;
}

describe.skipIf(!HAS_THIN_TOOLS).each([
  ["kernel-random", kernelRandom],
  ["kernel-trace", kernelTrace],
])("an image of a kernel's run, %s", (_name, image) => {
  const original = thinDump(image);

  test("comes out the same when nothing is damaged", async () => {
    const { image: repaired, candidates } = await repair(image);
    expect(candidates[0]).toMatchObject({ source: "superblock", isWhole: true, lostMappings: 0 });
    expect(thinDump(repaired)).toEqual(original);
    expect(await verdictOf(repaired)).toBe("clean");
    expect(thinCheck(repaired)).toBeUndefined();
  });

  test("loses what lay in a destroyed block and nothing else", { timeout: 120_000 }, async () => {
    const values = readSuperblock(new BlockStore(deviceOf(image))).values!;
    const { dataBlockSectors, transactionId } = values;
    const outcomes: string[] = [];
    for (const blocknr of usedBlocks(image)) {
      const { candidates, image: repaired } = await repair(without(image, blocknr), {
        dataBlockSectors,
        transactionId,
      });
      const [best] = candidates;
      expect(best, `block ${blocknr}`).toBeDefined();
      expect(await verdictOf(repaired), `block ${blocknr}`).toBe("clean");
      expect(thinCheck(repaired), `block ${blocknr}`).toBeUndefined();
      const model = thinDump(repaired);
      const kept = model.devices.reduce((sum, { mappings }) => sum + mappings.length, 0);
      const had = original.devices.reduce((sum, { mappings }) => sum + mappings.length, 0);
      const invented = inventedMappings(model, original);
      outcomes.push(
        `${blocknr} ${best!.source} kept ${kept}/${had} lost ${best!.lostMappings} invented ${invented.length} whole ${best!.isWhole}`,
      );
    }
  });
});
