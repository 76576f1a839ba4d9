/** Which thin devices map the data blocks of some regions: all mappings are looked at, what lies outside is dropped. */
import type { Pace } from "./pace.js";
import type { BlockStore } from "./reader/block-store.js";
import { RunCursor } from "./reader/run-cursor.js";
import { damageError, soundDevices, soundSuperblock } from "./sound.js";

/** Data blocks [begin, end). */
export interface Region {
  readonly begin: number;
  readonly end: number;
}

export interface ReverseRun {
  readonly dataBegin: number;
  readonly deviceId: number;
  readonly virtualBegin: number;
  readonly length: number;
}

/** @returns by data block, then device, then virtual block @throws DamageError */
export async function reverseMap(
  store: BlockStore,
  options: { readonly superblock: number; readonly regions: readonly Region[]; readonly pace: Pace },
): Promise<readonly ReverseRun[]> {
  const { pace } = options;
  const regions = joined(options.regions);
  const found: ReverseRun[] = [];
  const superblock = soundSuperblock(store, options.superblock);
  const devices = soundDevices(store, superblock);
  pace.total = devices.length;
  for (const { id, root } of devices) {
    if (root === undefined) continue;
    const runs = new RunCursor(store, root, (damage) => {
      throw damageError(store, damage, `device ${id}`);
    });
    while (runs.next()) {
      for (const { begin, end } of regions) {
        const from = Math.max(begin, runs.dataBegin);
        const length = Math.min(end, runs.dataBegin + runs.length) - from;
        if (length <= 0) continue;
        const virtualBegin = runs.virtualBegin + from - runs.dataBegin;
        const last = found.at(-1);
        // Runs that differ in time only are one.
        if (
          last?.deviceId === id &&
          last.dataBegin + last.length === from &&
          last.virtualBegin + last.length === virtualBegin
        ) {
          found[found.length - 1] = { ...last, length: last.length + length };
        } else found.push({ dataBegin: from, deviceId: id, virtualBegin, length });
      }
      if (pace.isDue) await pace.rest(0);
    }
    pace.base++;
  }
  return found.sort(
    (left, right) =>
      left.dataBegin - right.dataBegin || left.deviceId - right.deviceId || left.virtualBegin - right.virtualBegin,
  );
}

function joined(regions: readonly Region[]): readonly Region[] {
  const sorted = [...regions].sort((left, right) => left.begin - right.begin);
  const result: { begin: number; end: number }[] = [];
  for (const { begin, end } of sorted) {
    const last = result.at(-1);
    if (last !== undefined && begin <= last.end) last.end = Math.max(last.end, end);
    else result.push({ begin, end });
  }
  return result;
}
