/**
 * What was written to thin devices, and what a reader may find: each sector remembers every content it was given, when
 * the request began and when it was answered, and when flushes were. Moments are positions in a log shared by the
 * devices, so the same history answers for every crash in it. Contents are those of fillPattern: seed and sector number.
 */
import { fillPattern, SECTOR_BYTES } from "./pool-script.js";

interface Version {
  /** 0: zeros. */
  readonly seed: number;
  readonly begin: number;
  /** Infinity: not answered, or answered with an error. */
  end: number;
}

interface SectorHistory {
  /** What may have been there when the device came to be. */
  readonly initial: readonly number[];
  readonly versions: Version[];
}

interface Flush {
  readonly begin: number;
  readonly end: number;
}

const PAGE_BYTES = 4096;
const SECTORS_PER_PAGE = PAGE_BYTES / SECTOR_BYTES;
const ZERO_ONLY: readonly number[] = [0];
const ALL_TIME = Number.POSITIVE_INFINITY;

export class DeviceHistory {
  readonly #pages = new Map<number, (SectorHistory | undefined)[]>();
  readonly #flushes: Flush[] = [];
  /** Behind it nothing is known of the device. */
  deletedAt = ALL_TIME;
  /** The deletion was answered. */
  isGone = false;
  /** Its creation was answered. */
  exists = false;

  constructor(readonly id: number) {}

  get pages(): IterableIterator<number> {
    return this.#pages.keys();
  }

  /** A request for [offset, offset + length) began; the result is told when it was answered. */
  begin(offset: number, length: number, seed: number, now: number): Version[] {
    const versions: Version[] = [];
    for (let at = offset; at < offset + length; at += SECTOR_BYTES) {
      const version = { seed, begin: now, end: ALL_TIME };
      this.#sector(at / SECTOR_BYTES).versions.push(version);
      versions.push(version);
    }
    return versions;
  }

  /** Zeros for sectors that ever held anything. */
  beginDiscard(offset: number, length: number, now: number): Version[] {
    const versions: Version[] = [];
    const last = Math.ceil((offset + length) / PAGE_BYTES);
    for (let page = Math.floor(offset / PAGE_BYTES); page < last; page++) {
      for (const sector of this.#pages.get(page) ?? []) {
        if (sector === undefined) continue;
        const version = { seed: 0, begin: now, end: ALL_TIME };
        sector.versions.push(version);
        versions.push(version);
      }
    }
    return versions;
  }

  flushed(flush: Flush): void {
    this.#flushes.push(flush);
  }

  /** A device that begins with what this one may hold now. */
  snapshot(id: number): DeviceHistory {
    const copy = new DeviceHistory(id);
    for (const [page, sectors] of this.#pages) {
      copy.#pages.set(
        page,
        sectors.map((sector) => sector && { initial: this.#since(sector, lastAnswered(sector)), versions: [] }),
      );
    }
    return copy;
  }

  /** Seeds a reader may find after a crash at `position`, or at the end of all. */
  afterCrash(sector: number, position: number): readonly number[] {
    const history = this.#pages.get(Math.floor(sector / SECTORS_PER_PAGE))?.[sector % SECTORS_PER_PAGE];
    if (history === undefined) return ZERO_ONLY;
    const { versions } = history;
    let durable = versions.length - 1;
    while (durable >= 0 && !this.#isDurable(versions[durable]!, position)) durable--;
    return this.#since(history, durable, position);
  }

  /** Seeds a reader may find now, as long as nothing was dropped by an abort. */
  now(sector: number): readonly number[] {
    const history = this.#pages.get(Math.floor(sector / SECTORS_PER_PAGE))?.[sector % SECTORS_PER_PAGE];
    return history === undefined ? ZERO_ONLY : this.#since(history, lastAnswered(history));
  }

  hasPage(page: number): boolean {
    return this.#pages.has(page);
  }

  #sector(sector: number): SectorHistory {
    const page = Math.floor(sector / SECTORS_PER_PAGE);
    let sectors = this.#pages.get(page);
    if (sectors === undefined) {
      sectors = new Array<SectorHistory | undefined>(SECTORS_PER_PAGE).fill(undefined);
      this.#pages.set(page, sectors);
    }
    sectors[sector % SECTORS_PER_PAGE] ??= { initial: ZERO_ONLY, versions: [] };
    return sectors[sector % SECTORS_PER_PAGE]!;
  }

  #since({ initial, versions }: SectorHistory, index: number, position = ALL_TIME): readonly number[] {
    const seeds = index < 0 ? [...initial] : [];
    for (let at = Math.max(index, 0); at < versions.length; at++) {
      if (versions[at]!.begin <= position) seeds.push(versions[at]!.seed);
    }
    return seeds;
  }

  #isDurable(version: Version, position: number): boolean {
    return this.#flushes.some(({ begin, end }) => version.end <= begin && end <= position);
  }
}

function lastAnswered({ versions }: SectorHistory): number {
  let index = versions.length - 1;
  while (index >= 0 && versions[index]!.end === ALL_TIME) index--;
  return index;
}

/** Histories of all devices of a pool; `now` is the position in the log. */
export class WrittenHistory {
  readonly devices = new Map<number, DeviceHistory>();

  constructor(readonly now: () => number) {}

  device(id: number): DeviceHistory {
    const device = this.devices.get(id);
    if (device === undefined) throw new Error(`no history of device ${id}`);
    return device;
  }

  async write(
    id: number,
    offset: number,
    length: number,
    seed: number,
    run: (data: Uint8Array) => Promise<void>,
  ): Promise<void> {
    const data = new Uint8Array(length);
    fillPattern(data, offset, seed);
    await this.#answered(this.device(id).begin(offset, length, seed, this.now()), () => run(data));
  }

  /** @param blockBytes only whole blocks are discarded */
  async discard(
    id: number,
    offset: number,
    length: number,
    blockBytes: number,
    run: () => Promise<void>,
  ): Promise<void> {
    const begin = Math.ceil(offset / blockBytes) * blockBytes;
    const end = Math.floor((offset + length) / blockBytes) * blockBytes;
    await this.#answered(end > begin ? this.device(id).beginDiscard(begin, end - begin, this.now()) : [], run);
  }

  async flush(id: number, run: () => Promise<void>): Promise<void> {
    const begin = this.now();
    await run();
    this.device(id).flushed({ begin, end: this.now() });
  }

  /** Something that commits the pool: everything answered before is durable when it is answered. */
  async committed(run: () => Promise<void>): Promise<void> {
    const begin = this.now();
    await run();
    for (const device of this.devices.values()) device.flushed({ begin, end: this.now() });
  }

  async create(id: number, run: () => Promise<void>): Promise<void> {
    const device = new DeviceHistory(id);
    this.devices.set(id, device);
    await this.committed(run);
    device.exists = true;
  }

  async snapshot(id: number, origin: number, run: () => Promise<void>): Promise<void> {
    const device = this.device(origin).snapshot(id);
    this.devices.set(id, device);
    await this.committed(run);
    device.exists = true;
  }

  async delete(id: number, run: () => Promise<void>): Promise<void> {
    const device = this.device(id);
    device.deletedAt = this.now();
    await this.committed(run);
    device.isGone = true;
  }

  async #answered(versions: readonly Version[], run: () => Promise<void>): Promise<void> {
    await run();
    for (const version of versions) version.end = this.now();
  }
}

/** Seed of a sector of a thin device, 0 for zeros, or what is wrong with its bytes. */
export function seedOf(bytes: Uint8Array, at: number, sector: number): number | string {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, SECTOR_BYTES);
  const seed = view.getUint32(0, true);
  const number = view.getUint32(4, true);
  if (view.getUint32(SECTOR_BYTES - 8, true) !== seed || view.getUint32(SECTOR_BYTES - 4, true) !== number)
    return "torn";
  if (seed === 0 && number === 0) return 0;
  return number === sector ? seed : `of sector ${number}, seed ${seed}`;
}

/**
 * The first sector of a page that holds what it must not, in words.
 * @param allowed seeds that may be in a sector
 */
export function pageSurprise(
  page: number,
  bytes: Uint8Array,
  allowed: (sector: number) => readonly number[],
): string | undefined {
  for (let index = 0; index < SECTORS_PER_PAGE; index++) {
    const sector = page * SECTORS_PER_PAGE + index;
    const found = seedOf(bytes, index * SECTOR_BYTES, sector);
    const wanted = allowed(sector);
    if (!wanted.includes(found as number)) return `sector ${sector}: ${found}, wanted one of ${wanted.join(" ")}`;
  }
  return undefined;
}
