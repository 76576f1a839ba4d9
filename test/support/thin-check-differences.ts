/**
 * Where our check and thin_check 0.9 do not come to the same verdict, and who is right. One table for the damage goldens
 * and the fuzz test; what it does not explain fails there.
 */
import type { CheckReport, Finding } from "../../src/thin/index.js";

type Findings = Pick<CheckReport, "findings" | "verdict" | "superblock">;

interface Rule {
  readonly isMeant: (finding: Finding, report: Findings) => boolean;
  readonly reason: string;
}

function of(...ids: readonly Finding["id"][]): Rule["isMeant"] {
  return ({ id }) => ids.includes(id);
}

/** Damage that thin_check 0.9 does not look for. In all of these udm is right, for the reason given. */
const NOT_LOOKED_FOR: readonly Rule[] = [
  {
    isMeant: ({ id, problem }) => id === "superblock-damaged" && problem === "Kind",
    reason: "it does not look at the magic; the kernel refuses to open a superblock with another one",
  },
  {
    isMeant: ({ id, problem }) => id === "superblock-damaged" && problem === "Number",
    reason: "it does not look at the superblock's own block number; the kernel refuses to open it",
  },
  {
    isMeant: of("superblock-features"),
    reason: "it does not look at feature bits; the kernel refuses to open the pool",
  },
  {
    isMeant: of("superblock-geometry"),
    reason: "it does not look at sizes and ids in the superblock; the kernel takes no such block size",
  },
  {
    isMeant: of("clock-overflow"),
    reason: "it does not look at the clock; the next mapping's time would run into its block number",
  },
  {
    isMeant: of("map-too-large"),
    reason: "it does not hold the device's size against the space map; the kernel refuses to open the pool",
  },
  {
    isMeant: of("device-without-details", "device-without-mappings"),
    reason: "it does not hold the two trees of devices against each other; the kernel cannot open such a device",
  },
  {
    isMeant: of("device-mapped-count"),
    reason: "it does not count the mappings of a device; mappings were lost, or the pool's numbers are wrong",
  },
  {
    isMeant: of("mapping-outside-data"),
    reason: "it does not look where mappings lead; reads of such a block fail",
  },
  {
    isMeant: of("data-leak", "data-count"),
    reason: "it counts metadata blocks only; with too low a count the kernel gives a data block away twice",
  },
  {
    isMeant: of("overflow-count"),
    reason: "it does not hold the bitmaps against the overflow tree; the kernel fails when it changes such a count",
  },
  {
    isMeant: of("free-count", "allocated-count"),
    reason: "it does not count what the index and the root say is free; the kernel goes by that",
  },
  {
    isMeant: ({ id, message }) => id === "metadata-count" && /not governed by the space map/.test(message),
    reason: "it ends with the space map; blocks behind its end are in use and nobody counts them",
  },
  {
    isMeant: ({ id, problem, message }) =>
      id === "space-map-damaged" && problem === undefined && /its index has/.test(message),
    reason:
      "it does not hold the index against the size of the data space map; the kernel fails where a bitmap is missing",
  },
  {
    isMeant: ({ problem }) => problem === "Capacity",
    reason:
      "it takes a node's room as it stands; no program writes that number, and with it values are read from the wrong place",
  },
  {
    isMeant: ({ problem }) => problem === "Flags",
    reason: "it looks at two bits of a node's flags; no program sets others, and udm trusts no node that has them",
  },
  {
    isMeant: ({ problem }) => problem === "KeyLarge",
    reason: "it takes any key; no device has an id, and no block a number, above 2^53",
  },
  {
    isMeant: ({ problem }) => problem === "KeyRange",
    reason:
      "it does not hold the last key of a node against its parent's next; the kernel does not find what is behind",
  },
  {
    isMeant: ({ id, problem }, report) => isForeignLeaf(problem) || (id === "metadata-count" && hasForeignLeaf(report)),
    reason:
      "at a leaf of another tree it ends its count of an overflow tree, or of the snapshot's details, without a word; the kernel fails there",
  },
  {
    isMeant: ({ id, block }, { superblock }) =>
      (id === "space-map-damaged" || id === "tree-damaged") && (block ?? 0) >= (superblock?.metadataMap.nrBlocks ?? 0),
    reason:
      "of overflow trees and of the snapshot it misses only the count of a bad node, and this one lies behind a space map that was cut off",
  },
  {
    isMeant: of("depth-uneven"),
    reason: "it does not look how deep leaves lie; the kernel never makes such a tree",
  },
];

/** Values of another size than the tree has: the leaf is one of another tree. */
function isForeignLeaf(problem: Finding["problem"]): boolean {
  return problem === "ValueSize";
}

function hasForeignLeaf({ findings }: Findings): boolean {
  return findings.some(({ id, problem }) => id !== "mappings-damaged" && isForeignLeaf(problem));
}

/** Where thin_check 0.9 finds damage and udm none. */
const TOO_STRICT: readonly { readonly isMeant: (said: string) => boolean; readonly reason: string }[] = [];

export type Verdict =
  | { readonly kind: "agreed" }
  | { readonly kind: "explained"; readonly right: "udm"; readonly reasons: readonly string[] }
  | { readonly kind: "unexplained"; readonly why: string };

/** @param theirs what thin_check printed; undefined: it found nothing */
export function judgeDifference(report: Findings, theirs: string | undefined): Verdict {
  const serious = report.findings.filter(({ severity }) => severity !== "note");
  if ((theirs === undefined) === (serious.length === 0)) return { kind: "agreed" };
  if (theirs !== undefined) {
    const rule = TOO_STRICT.find(({ isMeant }) => isMeant(theirs));
    if (rule === undefined) return { kind: "unexplained", why: `thin_check says: ${theirs}; udm says clean` };
    return { kind: "explained", right: "udm", reasons: [rule.reason] };
  }
  const reasons = new Set<string>();
  for (const finding of serious) {
    const rule = NOT_LOOKED_FOR.find(({ isMeant }) => isMeant(finding, report));
    if (rule !== undefined) reasons.add(rule.reason);
    else return { kind: "unexplained", why: `thin_check finds nothing; udm says: ${finding.id}: ${finding.message}` };
  }
  return { kind: "explained", right: "udm", reasons: [...reasons] };
}
