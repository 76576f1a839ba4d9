/** The catalogue of damage: every case hits what it says, the same every time, and nothing else. */
import { describe, expect, test } from "vitest";
import { crc32c } from "../../../../src/bytes/index.js";
import { codeOf } from "../../../../src/errors/index.js";
import { MemoryDevice } from "../../../../src/io/index.js";
import {
  applyDamage,
  BlockStore,
  DAMAGE_CASES,
  type DamagePlan,
  KIND_SALT,
  Kind,
  planDamage,
} from "../../../../src/thin/index.js";
import { DAMAGE_BASES, makeEmptyPool } from "../../../support/damage-base.js";

const BLOCK_BYTES = 4096;
const BASES = { usual: DAMAGE_BASES.usual(), many: DAMAGE_BASES.many() };

function deviceOf(bytes: Uint8Array): MemoryDevice {
  const device = new MemoryDevice({ sizeBytes: bytes.length });
  device.sync.write(0, bytes);
  return device;
}

/** On the first of the bases that has what the case needs. */
function planOn(id: string, seed: number): { readonly base: Uint8Array; readonly plan: DamagePlan } {
  for (const base of Object.values(BASES)) {
    try {
      return { base, plan: planDamage(new BlockStore(deviceOf(base)), id, seed) };
    } catch (error) {
      if (codeOf(error) !== "ENODATA") throw error;
    }
  }
  throw new Error(`${id}: no base has what it needs`);
}

function isSealed(bytes: Uint8Array): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const kinds = [Kind.Superblock, Kind.Node, Kind.Bitmap, Kind.Index];
  return kinds.some((kind) => (crc32c(view, 4) ^ KIND_SALT[kind]) >>> 0 === view.getUint32(0, true));
}

test("there are more cases than a drill needs, each with an id of its own and a sentence", () => {
  expect(DAMAGE_CASES.length).toBeGreaterThan(200);
  expect(new Set(DAMAGE_CASES.map(({ id }) => id)).size).toBe(DAMAGE_CASES.length);
  for (const { id, what } of DAMAGE_CASES) {
    expect(id).toMatch(/^[a-z]+(-[a-z0-9]+)*$/);
    expect(what).toMatch(/^[A-Z].*[^.]\.$/);
  }
});

describe.each(DAMAGE_CASES)("$id", ({ id, isSealed: claimsSeals }) => {
  test("hits something, the same with the same seed, and is sealed where it says so", () => {
    const { base, plan } = planOn(id, 1);
    expect(plan.hits.length).toBeGreaterThan(0);
    expect(planOn(id, 1).plan).toEqual(plan);
    const changed = plan.blocks.filter(({ blocknr, bytes }) => {
      return Buffer.compare(bytes, base.subarray(blocknr * BLOCK_BYTES, (blocknr + 1) * BLOCK_BYTES)) !== 0;
    });
    expect(changed.length + plan.zeroed.length + (plan.sizeBytes === undefined ? 0 : 1)).toBeGreaterThan(0);
    if (claimsSeals) for (const { bytes } of changed) expect(isSealed(bytes)).toBe(true);
    const device = deviceOf(base);
    applyDamage({ name: "copy", sync: device.sync, resize: (bytes) => device.resize(bytes) }, plan);
    expect(device.sizeBytes).toBe(plan.sizeBytes ?? base.length);
  });
});

test("another seed hits another place", () => {
  const hits = new Set(Array.from({ length: 20 }, (_, seed) => planOn("leaf-checksum", seed).plan.hits.join()));
  expect(hits.size).toBeGreaterThan(5);
});

test("a pool that has nothing of the kind is refused and left alone, and so is one without a superblock", () => {
  const empty = deviceOf(makeEmptyPool());
  for (const { id } of DAMAGE_CASES) {
    try {
      planDamage(new BlockStore(empty), id);
    } catch (error) {
      expect(codeOf(error), id).toBe("ENODATA");
      expect(String(error)).toMatch(/this metadata has no .* that could be damaged/);
    }
  }
  expect(() => planDamage(new BlockStore(deviceOf(new Uint8Array(65536))), "leaf-checksum")).toThrow(/superblock/);
  expect(() => planDamage(new BlockStore(empty), "leaf-chekcsum")).toThrow(/no case of damage 'leaf-chekcsum'/);
});

test("a device whose size is given cannot be cut off", () => {
  const device = deviceOf(BASES.usual);
  const plan = planDamage(new BlockStore(device), "device-truncated");
  expect(() => applyDamage({ name: "sda", sync: device.sync, resize: undefined }, plan)).toThrow(
    /size cannot be changed/,
  );
});
