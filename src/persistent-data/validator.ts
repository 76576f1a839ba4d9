/**
 * What must hold for a metadata block of a kind. Every block begins with a checksum and, at byte 8, its own number; the
 * checksum is xored with a constant of the kind, so a block cannot be taken for another.
 */
import { crc32c, getU64, type ReadView, setU64 } from "../bytes/index.js";
import { DamageError } from "../errors/index.js";

export const METADATA_BLOCK_BYTES = 4096;

const CSUM_OFFSET = 0;
const BLOCKNR_OFFSET = 8;
/** The checksum covers what follows it. */
const CSUM_START = 4;

export interface Validator {
  /** The kernel's name for the kind. */
  readonly name: string;
  /** Sets own number and checksum before the block is written. */
  prepare(view: DataView, blocknr: number): void;
  /** Runs once, when the block enters the cache. @throws DamageError (ENOTBLK, EILSEQ) */
  check(view: ReadView, blocknr: number): void;
}

/** A kind whose own rules are `checkContent`, run after number and checksum. */
export function makeValidator(options: {
  readonly name: string;
  readonly salt: number;
  readonly checkContent?: (view: ReadView, blocknr: number) => void;
  /** Runs between number and checksum, as the kernel does for the superblock's magic. */
  readonly checkFirst?: (view: ReadView) => void;
}): Validator {
  const { name, salt } = options;
  return {
    name,
    prepare(view, blocknr) {
      setU64(view, BLOCKNR_OFFSET, blocknr);
      view.setUint32(CSUM_OFFSET, (crc32c(view, CSUM_START) ^ salt) >>> 0, true);
    },
    check(view, blocknr) {
      const found = blocknrOf(view);
      if (found !== blocknr) {
        throw damaged(blocknr, name, `says it is block ${found ?? "beyond 2^53"}`, "ENOTBLK");
      }
      options.checkFirst?.(view);
      const stored = view.getUint32(CSUM_OFFSET, true);
      const computed = (crc32c(view, CSUM_START) ^ salt) >>> 0;
      if (stored !== computed) {
        throw damaged(blocknr, name, `checksum 0x${stored.toString(16)}, wanted 0x${computed.toString(16)}`, "EILSEQ");
      }
      options.checkContent?.(view, blocknr);
    },
  };
}

function blocknrOf(view: ReadView): number | undefined {
  return view.getUint32(BLOCKNR_OFFSET + 4, true) > 0x1fffff ? undefined : getU64(view, BLOCKNR_OFFSET);
}

/** The error for a block that is not what it should be. */
export function damaged(
  blocknr: number,
  kind: string,
  what: string,
  code: "EILSEQ" | "ENOTBLK" | "EUCLEAN" = "EILSEQ",
): DamageError {
  return new DamageError(
    `metadata block ${blocknr} (${kind}): ${what}`,
    { hint: "the pool was left as it is; check its metadata with thin_check and repair a copy with thin_repair" },
    code,
  );
}
