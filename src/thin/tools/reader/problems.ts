/** What can be wrong with one metadata block, as small numbers: there may be millions of blocks. */

/** Kinds of metadata blocks; each has its own constant in the checksum. Source: thin-engine 1.2. */
export enum Kind {
  Superblock = 1,
  Node = 2,
  Bitmap = 3,
  Index = 4,
}

export const KIND_SALT: Readonly<Record<Kind, number>> = {
  [Kind.Superblock]: 160774,
  [Kind.Node]: 121107,
  [Kind.Bitmap]: 240779,
  [Kind.Index]: 160478,
};

export const KIND_NAME: Readonly<Record<Kind, string>> = {
  [Kind.Superblock]: "superblock",
  [Kind.Node]: "btree node",
  [Kind.Bitmap]: "space map bitmap",
  [Kind.Index]: "metadata index block",
};

export function kindName(kind: Kind): keyof typeof Kind {
  return Kind[kind] as keyof typeof Kind;
}

export function problemName(problem: Problem): keyof typeof Problem {
  return Problem[problem] as keyof typeof Problem;
}

export enum Problem {
  None = 0,
  /** The number points behind the device, or at the superblock. */
  Outside,
  /** The device answers with an error. */
  Unreadable,
  Checksum,
  /** The block says it is another one. */
  Number,
  /** Sound, but used as a block of another kind elsewhere. */
  Kind,
  /** A node that is neither internal nor leaf, or both. */
  Flags,
  ValueSize,
  /** max_entries is not what the value size gives. */
  Capacity,
  /** More entries than room, or an internal node with none. */
  Entries,
  /** Keys do not ascend. */
  KeyOrder,
  /** Keys outside what the parent gives them. */
  KeyRange,
  /** A node below itself. */
  Circle,
  /** Deeper than any real tree. */
  Depth,
  /** A key above 2^53. */
  KeyLarge,
}
