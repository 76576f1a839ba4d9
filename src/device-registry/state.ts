/**
 * What udm remembers between commands. It describes: the truth about a pool is its metadata device. Parsed once, here,
 * and trusted afterwards. Fields that a later release adds inside this version are refused, not dropped: a file that we
 * would rewrite without them is a file we do not understand.
 */
import { messageOf, StateError } from "../errors/index.js";
import type { TargetLine } from "../targets/index.js";
import type { PoolRuntime } from "../thin/index.js";

export const STATE_VERSION = 1;

export interface State {
  /** Counts writes of the file. */
  readonly serial: number;
  readonly loops: readonly LoopRecord[];
  readonly devices: readonly DeviceRecord[];
  readonly intents: readonly Intent[];
}

export const EMPTY_STATE: State = { serial: 0, loops: [], devices: [], intents: [] };

export interface LoopRecord {
  readonly number: number;
  readonly file: string;
  readonly offsetBytes: number;
  /** 0: to the end of the file. */
  readonly sizeLimitBytes: number;
  /** Taken up from the file, whatever that grew to. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly sectorBytes: number;
  /** Detached with its last user. */
  readonly autoclear: boolean;
}

export interface InactiveTable {
  readonly lines: readonly TargetLine[];
  readonly readOnly: boolean;
}

export interface DeviceRecord {
  readonly name: string;
  readonly uuid: string;
  readonly minor: number;
  /** Of the live table. */
  readonly readOnly: boolean;
  readonly suspended: boolean;
  readonly eventNr: number;
  readonly deferredRemove: boolean;
  readonly live?: readonly TargetLine[];
  readonly inactive?: InactiveTable;
  readonly pool?: PoolRecord;
}

/** What belongs to a device because it is a pool. */
export interface PoolRecord {
  readonly runtime?: PoolRuntime;
  readonly thins: readonly ThinRecord[];
  readonly autoextendThresholdPercent?: number;
  readonly autoextendPercent?: number;
  readonly maxSizeBytes?: number;
  /** New thin devices are refused when less than this share of data or metadata is free. */
  readonly minFreeSpacePercent?: number;
  /** The metadata snapshot that a daemon holds for readers, and gives back. */
  readonly readSnapshot?: ReadSnapshot;
}

export interface ReadSnapshot {
  /** Metadata block of the copy of the superblock. */
  readonly block: number;
  /** Digest of what stands in it: tells it from one that somebody takes later. */
  readonly digest: string;
}

/** A thin device that udm knows by name, active or not. */
export interface ThinRecord {
  readonly id: number;
  readonly name: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Id of the device it was a snapshot of. */
  readonly origin?: number;
  /** `MAJ:MIN` */
  readonly externalOrigin?: string;
  /** Tells a device of ours from a later one that was given the same id elsewhere. */
  readonly creationTime: number;
  /** Delete it from the pool once its device is gone. */
  readonly deleteWhenClosed: boolean;
}

/** A change of a pool and the state that may have been cut off; `mend` in host says what each means. */
export type Intent =
  | {
      readonly kind: "create-pool";
      readonly pool: string;
      /** Files that were made for it. */
      readonly files: readonly MadeFile[];
    }
  | { readonly kind: "destroy-pool"; readonly pool: string; readonly metadata: string }
  | { readonly kind: "create-thin"; readonly pool: string; readonly thin: ThinRecord; readonly activate: boolean }
  | {
      readonly kind: "delete-thin";
      readonly pool: string;
      readonly id: number;
      /** Nothing names it any more: it has to go even if it was not deleted yet. */
      readonly isLeftOver: boolean;
    }
  /** A table that is live and has yet to be taken up by its pool. */
  | { readonly kind: "resume"; readonly pool: string }
  | {
      readonly kind: "rollback";
      readonly pool: string;
      /** The new snapshot, which takes the place of the old device once it exists. */
      readonly newId: number;
    }
  /** Several operations at once: `next` is the state from the moment the pool's metadata is committed. */
  | {
      readonly kind: "batch";
      readonly pool: string;
      readonly metadata: string;
      /** Digest of the superblock that the commit replaces. */
      readonly superblock: string;
      readonly next: State;
    };

export interface MadeFile {
  readonly path: string;
  readonly ino: number;
  readonly dev: number;
}

/** The file's text. */
export function formatState(state: State): string {
  return `${JSON.stringify({ udm: "state", version: STATE_VERSION, ...state }, undefined, 1)}\n`;
}

/** @throws StateError EUCLEAN (damaged), EINVAL (from a newer version) */
export function parseState(text: string): State {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Damage(`is not JSON (${messageOf(error)})`, { cause: error });
  }
  const top = new Reader(value, "state");
  if (top.get("udm") !== "state") throw new Damage("is not a state file of udm");
  const version = top.count("version");
  if (version > STATE_VERSION) {
    throw new StateError("EINVAL", `state file is version ${version}, this udm reads up to ${STATE_VERSION}`, {
      hint: "use the newer udm that wrote it",
    });
  }
  const state = parseContent(top);
  top.end(["udm", "version"]);
  return state;
}

function parseContent(from: Reader): State {
  const state: State = {
    serial: from.count("serial"),
    loops: from.list("loops", parseLoop),
    devices: from.list("devices", parseDevice),
    intents: from.list("intents", parseIntent),
  };
  unique(state.loops, "loops", (each) => each.number);
  unique(state.devices, "devices", (each) => each.name);
  unique(state.devices, "minors", (each) => each.minor);
  return state;
}

/** What is wrong with the text; the reader of the file adds where it is and what to do. */
export class Damage extends Error {}

function unique<T>(items: readonly T[], what: string, key: (item: T) => unknown): void {
  if (new Set(items.map(key)).size !== items.length) throw new Damage(`holds ${what} twice`);
}

function parseLoop(from: Reader): LoopRecord {
  return {
    number: from.count("number"),
    file: from.text("file"),
    offsetBytes: from.count("offsetBytes"),
    sizeLimitBytes: from.count("sizeLimitBytes"),
    sizeBytes: from.count("sizeBytes"),
    readOnly: from.flag("readOnly"),
    sectorBytes: from.count("sectorBytes"),
    autoclear: from.flag("autoclear"),
  };
}

function parseDevice(from: Reader): DeviceRecord {
  return {
    name: from.text("name"),
    uuid: from.text("uuid"),
    minor: from.count("minor"),
    readOnly: from.flag("readOnly"),
    suspended: from.flag("suspended"),
    eventNr: from.count("eventNr"),
    deferredRemove: from.flag("deferredRemove"),
    ...from.optional("live", (key) => from.list(key, parseTargetLine)),
    ...from.optional("inactive", (key) =>
      from.object(key, (each) => ({ lines: each.list("lines", parseTargetLine), readOnly: each.flag("readOnly") })),
    ),
    ...from.optional("pool", (key) => from.object(key, parsePool)),
  };
}

function parseTargetLine(from: Reader): TargetLine {
  return {
    startSectors: from.count("startSectors"),
    lengthSectors: from.count("lengthSectors"),
    type: from.text("type"),
    args: from.texts("args"),
  };
}

function parsePool(from: Reader): PoolRecord {
  return {
    ...from.optional("runtime", (key) => from.object(key, parseRuntime)),
    thins: from.list("thins", parseThin),
    ...from.optional("autoextendThresholdPercent", (key) => from.count(key)),
    ...from.optional("autoextendPercent", (key) => from.count(key)),
    ...from.optional("maxSizeBytes", (key) => from.count(key)),
    ...from.optional("minFreeSpacePercent", (key) => from.count(key)),
    ...from.optional("readSnapshot", (key) =>
      from.object(key, (each) => ({ block: each.count("block"), digest: each.text("digest") })),
    ),
  };
}

const MODES = ["write", "out-of-data-space", "out-of-metadata-space", "read-only", "fail"] as const;

function parseRuntime(from: Reader): PoolRuntime {
  const mode = from.text("mode");
  const known = MODES.find((each) => each === mode);
  if (known === undefined) throw new Damage(`holds the mode '${mode}' at ${from.where}`);
  return {
    mode: known,
    errorsNow: from.flag("errorsNow"),
    lowWaterTriggered: from.flag("lowWaterTriggered"),
    eventNr: from.count("eventNr"),
    ...from.optional("needsCheckUnsaved", (key) => from.flag(key)),
  };
}

function parseThin(from: Reader): ThinRecord {
  return {
    id: from.count("id"),
    name: from.text("name"),
    sizeBytes: from.count("sizeBytes"),
    readOnly: from.flag("readOnly"),
    ...from.optional("origin", (key) => from.count(key)),
    ...from.optional("externalOrigin", (key) => from.text(key)),
    creationTime: from.count("creationTime"),
    deleteWhenClosed: from.flag("deleteWhenClosed"),
  };
}

function parseIntent(from: Reader): Intent {
  const kind = from.text("kind");
  const pool = from.text("pool");
  switch (kind) {
    case "create-pool":
      return {
        kind,
        pool,
        files: from.list("files", (each) => ({
          path: each.text("path"),
          ino: each.count("ino"),
          dev: each.count("dev"),
        })),
      };
    case "destroy-pool":
      return { kind, pool, metadata: from.text("metadata") };
    case "create-thin":
      return { kind, pool, thin: from.object("thin", parseThin), activate: from.flag("activate") };
    case "delete-thin":
      return { kind, pool, id: from.count("id"), isLeftOver: from.flag("isLeftOver") };
    case "resume":
      return { kind, pool };
    case "rollback":
      return { kind, pool, newId: from.count("newId") };
    case "batch":
      return {
        kind,
        pool,
        metadata: from.text("metadata"),
        superblock: from.text("superblock"),
        next: from.object("next", parseContent),
      };
    default:
      throw new Damage(`holds the kind '${kind}' at ${from.where}`);
  }
}

/** Takes an object apart, field by field, and knows in the end whether anything was left. */
class Reader {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #seen = new Set<string>();

  constructor(
    value: unknown,
    readonly where: string,
  ) {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      throw new Damage(`holds no object at ${where}`);
    this.#fields = value as Record<string, unknown>;
  }

  get(key: string): unknown {
    this.#seen.add(key);
    return this.#fields[key];
  }

  text(key: string): string {
    const value = this.get(key);
    if (typeof value !== "string") throw new Damage(`holds no text at ${this.where}.${key}`);
    return value;
  }

  texts(key: string): readonly string[] {
    const value = this.get(key);
    if (!Array.isArray(value) || value.some((each) => typeof each !== "string")) {
      throw new Damage(`holds no list of texts at ${this.where}.${key}`);
    }
    return value as string[];
  }

  count(key: string): number {
    const value = this.get(key);
    if (typeof value !== "number" || !Number.isInteger(value) || value < 0) {
      throw new Damage(`holds no number at ${this.where}.${key}`);
    }
    return value;
  }

  flag(key: string): boolean {
    const value = this.get(key);
    if (typeof value !== "boolean") throw new Damage(`holds neither true nor false at ${this.where}.${key}`);
    return value;
  }

  list<T>(key: string, parse: (from: Reader) => T): readonly T[] {
    const value = this.get(key);
    if (!Array.isArray(value)) throw new Damage(`holds no list at ${this.where}.${key}`);
    return value.map((each, index) => parsed(new Reader(each, `${this.where}.${key}[${index}]`), parse));
  }

  object<T>(key: string, parse: (from: Reader) => T): T {
    return parsed(new Reader(this.get(key), `${this.where}.${key}`), parse);
  }

  optional<K extends string, T>(key: K, parse: (key: K) => T): { readonly [P in K]?: T } {
    if (this.get(key) === undefined) return {};
    return { [key]: parse(key) } as { readonly [P in K]?: T };
  }

  end(also: readonly string[] = []): void {
    const unknown = Object.keys(this.#fields).find((key) => !this.#seen.has(key) && !also.includes(key));
    if (unknown !== undefined) throw new Damage(`holds ${this.where}.${unknown}, which is unknown`);
  }
}

function parsed<T>(from: Reader, parse: (from: Reader) => T): T {
  const value = parse(from);
  from.end();
  return value;
}
