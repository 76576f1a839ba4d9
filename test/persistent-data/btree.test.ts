/** The rules of sections 2.2 to 2.7 of the engine's specification, each by name. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { UdmError } from "../../src/errors/index.js";
import {
  BTREE_NODE,
  deleteTree,
  emptyTree,
  highestKey,
  insert,
  insertRunBelow,
  lookup,
  lookupNext,
  Position,
  remove,
  removeRun,
  type Tree,
  walkLeaves,
} from "../../src/persistent-data/index.js";
import { type Bench, leavesOf, makeBench, makeValue, nodesOf } from "../support/metadata-bench.js";
import { Random } from "../support/random.js";

/** A tree with a root that is kept, and a count of what it owns. */
class TestTree {
  readonly tree: Tree;
  root: number;
  readonly owned = new Map<number, number>();

  constructor(
    readonly bench: Bench,
    readonly valueSize = 8,
    root?: number,
  ) {
    const count = (by: number) => (view: Parameters<NonNullable<Tree["value"]["inc"]>>[0], at: number, nr: number) => {
      for (let index = 0; index < nr; index++) {
        const value = view.getUint32(at + index * valueSize, true);
        this.owned.set(value, (this.owned.get(value) ?? 0) + by);
      }
    };
    this.tree = {
      transaction: bench.transaction,
      value: {
        size: valueSize,
        inc: count(1),
        dec: count(-1),
        equal: (a, x, b, y) => a.getUint32(x, true) === b.getUint32(y, true),
      },
    };
    this.root = root ?? emptyTree(this.tree);
  }

  put(key: number, value = key): boolean {
    const { root, isNew } = insert(this.tree, this.root, key, makeValue(this.valueSize, value), 0);
    this.root = root;
    this.bench.blocks.trim();
    return isNew;
  }

  fill(from: number, to: number): this {
    for (let key = from; key < to; key++) this.put(key);
    return this;
  }

  drop(key: number): number {
    const { root, count } = remove(this.tree, this.root, key);
    this.root = root;
    this.bench.blocks.trim();
    return count;
  }

  get(key: number): number | undefined {
    const position = new Position();
    return lookup(this.tree, this.root, key, position) ? position.view.getUint32(position.offset, true) : undefined;
  }

  get keys(): number[] {
    return leavesOf(this.tree, this.root).flat();
  }

  get leafSizes(): number[] {
    return leavesOf(this.tree, this.root).map((leaf) => leaf.length);
  }

  get nodes() {
    return nodesOf(this.bench.transaction, this.root);
  }

  get depth(): number {
    return Math.max(...this.nodes.map(({ depth }) => depth));
  }

  /** Counts of all metadata blocks are what this tree and the space map need, and every node is full enough. */
  expectSound(others: readonly number[] = []): void {
    const seen = new Map<number, number>();
    const count = (root: number): void => {
      const visit = (blocknr: number, depth: number): void => {
        seen.set(blocknr, (seen.get(blocknr) ?? 0) + 1);
        const { view } = this.bench.transaction.read(blocknr, BTREE_NODE);
        const nr = view.getUint32(16, true);
        if (depth > 0) expect(nr).toBeGreaterThanOrEqual(Math.floor(view.getUint32(20, true) / 3));
        if (seen.get(blocknr) !== 1 || view.getUint32(4, true) === 2) return;
        for (let index = 0; index < nr; index++) visit(view.getUint32(2048 + 8 * index, true), depth + 1);
      };
      visit(root, 0);
    };
    count(this.root);
    for (const root of others) count(root);
    for (const [block, references] of seen) expect([block, this.bench.map.count(block)]).toEqual([block, references]);
  }
}

function tree(valueSize = 8, nrBlocks = 4096): TestTree {
  return new TestTree(makeBench(nrBlocks), valueSize);
}

describe("reading", () => {
  test("an empty tree holds nothing, has no next and no highest key", () => {
    const empty = tree();
    const position = new Position();
    expect(empty.get(0)).toBeUndefined();
    expect(lookupNext(empty.tree, empty.root, 0, position)).toBe(false);
    expect(highestKey(empty.tree, empty.root)).toBeUndefined();
    expect(empty.keys).toEqual([]);
  });

  test("next crosses leaf borders, finds itself, and ends behind the highest key", () => {
    const even = tree();
    for (let key = 0; key < 2000; key += 2) even.put(key);
    const position = new Position();
    for (let key = 0; key < 1998; key++) {
      expect(lookupNext(even.tree, even.root, key, position)).toBe(true);
      expect(position.key).toBe(key % 2 === 0 ? key : key + 1);
    }
    expect(lookupNext(even.tree, even.root, 1999, position)).toBe(false);
    expect(highestKey(even.tree, even.root)).toBe(1998);
    expect(even.leafSizes.length).toBeGreaterThan(4);
  });

  test("a walk over a range visits just its keys, and stops when told", () => {
    const full = tree().fill(0, 1000);
    fc.assert(
      fc.property(fc.nat(1100), fc.nat(1100), (begin, end) => {
        const seen: number[] = [];
        walkLeaves(full.tree, full.root, begin, end, (view, from, to) => {
          for (let index = from; index < to; index++) seen.push(view.getUint32(32 + 8 * index, true));
          return true;
        });
        expect(seen).toEqual(Array.from({ length: Math.max(0, Math.min(end, 1000) - begin) }, (_, at) => begin + at));
      }),
    );
    let visits = 0;
    walkLeaves(full.tree, full.root, 0, 1000, () => {
      visits++;
      return visits < 2;
    });
    expect(visits).toBe(2);
  });

  test("keys above 2^32 keep their order", () => {
    const wide = tree();
    const keys = [2 ** 52, 2 ** 32 + 1, 2 ** 32, 2 ** 32 - 1, 1, 2 ** 40 + 7, 2 ** 53 - 1];
    for (const [index, key] of keys.entries()) wide.put(key, index);
    expect(wide.keys).toEqual([...keys].sort((a, b) => a - b));
    for (const [index, key] of keys.entries()) expect(wide.get(key)).toBe(index);
  });
});

describe("making room", () => {
  test("a full root is split beneath: halves below, the root keeps its block", () => {
    const full = tree().fill(0, 252);
    const before = full.root;
    expect(full.nodes.length).toBe(1);
    full.put(252);
    expect(full.root).toBe(before);
    expect(full.nodes[0]).toMatchObject({ kind: "internal", nrEntries: 2, firstKey: 0 });
    expect(full.leafSizes).toEqual([126, 127]);
  });

  test("an odd number of entries leaves the larger half on the right", () => {
    for (const [size, max] of [
      [4, 336],
      [16, 168],
      [24, 126],
    ] as const) {
      const full = tree(size).fill(0, max + 1);
      expect(full.leafSizes).toEqual([Math.floor(max / 2), max - Math.floor(max / 2) + 1]);
    }
  });

  test("a full leaf hands entries to a left sibling with 8 free, before it looks to the right", () => {
    const full = tree().fill(0, 378);
    expect(full.leafSizes).toEqual([126, 252]);
    full.put(378);
    // 378 entries evened out: 189 each, the new key behind them.
    expect(full.leafSizes).toEqual([189, 190]);
    expect(full.nodes[0]!.nrEntries).toBe(2);
  });

  test("a full leaf at the left end hands entries to the right", () => {
    const full = tree();
    for (let key = 1000; key < 1253; key++) full.put(key);
    expect(full.leafSizes).toEqual([126, 127]);
    for (let key = 999; full.leafSizes[0]! < 252; key--) full.put(key);
    expect(full.leafSizes).toEqual([252, 127]);
    full.put(1);
    expect(full.leafSizes).toEqual([190, 190]);
    full.expectSound();
  });

  test("with fewer than 8 free beside it and two siblings, one becomes two", () => {
    const full = tree().fill(0, 10_000);
    full.expectSound();
    expect(full.depth).toBe(1);
    const two = tree();
    for (let key = 0; key < 253; key++) two.put(key * 10);
    // Fill both leaves to 252 and 245: 7 free.
    for (let key = 1; two.leafSizes[0]! < 245; key++) if (key % 10 !== 0) two.put(key);
    const first = two.nodes[2]!.firstKey!;
    for (let key = first + 1; two.leafSizes[1]! < 252; key++) if (key % 10 !== 0) two.put(key);
    expect(two.leafSizes).toEqual([245, 252]);
    two.put(2529);
    expect(two.leafSizes).toEqual([245, 126, 127]);
    two.expectSound();
  });

  test("in the middle of three full leaves, two become three", () => {
    const three = tree();
    for (let key = 0; key < 253; key++) three.put(key * 1000);
    // Each leaf is filled behind the keys it has, so that there are gaps everywhere.
    const fillLeaf = (index: number, count: number) => {
      for (let step = 1; ; step++) {
        for (const key of leavesOf(three.tree, three.root)[index]!) {
          if (three.leafSizes[index]! >= count) return;
          if (three.get(key + step) === undefined) three.put(key + step);
        }
      }
    };
    fillLeaf(0, 246);
    fillLeaf(1, 252);
    three.put(252 * 1000 + 900);
    expect(three.leafSizes).toEqual([246, 126, 127]);
    fillLeaf(2, 252);
    fillLeaf(1, 252);
    fillLeaf(0, 250);
    expect(three.leafSizes).toEqual([250, 252, 252]);
    three.put(leavesOf(three.tree, three.root)[1]!.at(-1)! + 1);
    // 502 entries: 167, 167, 168, and the new key goes to the right one.
    expect(three.leafSizes).toEqual([167, 167, 169, 252]);
    three.expectSound();
  });

  test("a shared sibling is not touched: one becomes two", () => {
    const bench = makeBench(4096);
    const first = new TestTree(bench).fill(0, 378);
    expect(first.leafSizes).toEqual([126, 252]);
    // A snapshot: both roots own the leaves.
    bench.transaction.inc(first.root);
    const second = new TestTree(bench, 8, first.root);
    second.put(378);
    expect(second.leafSizes).toEqual([126, 126, 127]);
    expect(first.leafSizes).toEqual([126, 252]);
    second.expectSound([first.root]);
  });

  test("overwriting a key in a full leaf splits nothing and gives up the old value", () => {
    const full = tree().fill(0, 252);
    expect(full.put(100, 7777)).toBe(false);
    expect(full.nodes.length).toBe(1);
    expect(full.get(100)).toBe(7777);
    expect(full.owned.get(100)).toBe(-1);
    expect(full.put(100, 7777)).toBe(false);
    expect(full.owned.get(7777)).toBeUndefined();
  });

  test("a key below the lowest becomes key 0 all the way down", () => {
    const low = tree();
    for (let key = 1000; key < 2000; key++) low.put(key);
    low.put(3);
    for (const { depth, firstKey } of low.nodes.filter(
      (node, index, all) => all.findIndex((other) => other.depth === node.depth) === index,
    )) {
      expect([depth, firstKey]).toEqual([depth, 3]);
    }
    expect(low.get(3)).toBe(3);
  });

  test("600 ascending inserts with a commit each leave 13 blocks in use, as the kernel's do", () => {
    const ascending = tree();
    for (let key = 0; key < 600; key++) {
      ascending.put(key);
      ascending.bench.commit();
    }
    expect(ascending.leafSizes.length).toBe(3);
    ascending.expectSound();
  });

  test.each(["ascending", "descending", "random"] as const)("%s inserts to three levels keep every rule", (order) => {
    const deep = tree(24, 16384);
    const random = new Random(7);
    const keys = Array.from({ length: 40_000 }, (_, index) => index);
    if (order === "descending") keys.reverse();
    if (order === "random") keys.sort(() => random.next() - 0.5);
    for (const key of keys) expect(deep.put(key)).toBe(true);
    expect(deep.depth).toBe(2);
    deep.expectSound();
    expect(deep.keys).toEqual(Array.from({ length: 40_000 }, (_, index) => index));
  });
});

describe("removal", () => {
  test("a key that is not there changes no key", () => {
    const full = tree().fill(0, 600);
    expect(full.drop(5000)).toBe(0);
    expect(full.drop(600)).toBe(0);
    expect(full.keys.length).toBe(600);
    expect(tree().drop(0)).toBe(0);
    const gap = tree();
    gap.put(10);
    expect(gap.drop(5)).toBe(0);
    expect(gap.drop(11)).toBe(0);
    expect(gap.keys).toEqual([10]);
  });

  test("two children below 170 entries become one, and the root swallows its only child", () => {
    const two = tree().fill(0, 253);
    expect(two.leafSizes).toEqual([126, 127]);
    for (let key = 252; two.keys.length > 170; key--) two.drop(key);
    expect(two.leafSizes.length).toBe(2);
    two.drop(169);
    // 170 entries: evened out, and one gone.
    expect(two.leafSizes).toEqual([85, 84]);
    two.drop(168);
    // 169: merged before the removal; the root has one child.
    expect(two.leafSizes).toEqual([168]);
    expect(two.depth).toBe(1);
    two.drop(167);
    expect(two.depth).toBe(0);
    expect(two.leafSizes).toEqual([167]);
    two.expectSound();
  });

  test("three children below 337 entries lose the middle one, else they are evened out", () => {
    const three = tree().fill(0, 600);
    expect(three.leafSizes.length).toBe(3);
    const middle = () => leavesOf(three.tree, three.root)[1]!;
    three.drop(middle()[5]!);
    // 600 entries: right 200, left 200, the middle the rest, less one.
    expect(three.leafSizes).toEqual([200, 199, 200]);
    three.drop(middle()[5]!);
    expect(three.leafSizes).toEqual([200, 199, 199]);
    while (three.keys.length > 337) three.drop(middle()[1]!);
    expect(three.leafSizes.length).toBe(3);
    three.drop(middle()[1]!);
    expect(three.leafSizes).toEqual([113, 111, 112]);
    three.drop(middle()[1]!);
    // 336: the middle one is handed out, the two that stay are evened out.
    expect(three.leafSizes).toEqual([167, 168]);
    three.expectSound();
  });

  test("swallowing a child that somebody else owns too counts its children once more", () => {
    const bench = makeBench(8192);
    const first = new TestTree(bench).fill(0, 253);
    for (let key = 252; key >= 168; key--) first.drop(key);
    expect(first.depth).toBe(1);
    expect(first.nodes[0]!.nrEntries).toBe(1);
    bench.commit();
    bench.transaction.inc(first.root);
    const second = new TestTree(bench, 8, first.root);
    second.drop(0);
    expect(second.depth).toBe(0);
    expect(first.keys.length).toBe(168);
    second.expectSound([first.root]);
    // Every value that both leaves hold is owned once more.
    expect(second.owned.get(100)).toBe(1);
    expect(second.owned.get(0) ?? 0).toBe(0);
    deleteTree(second.tree, second.root);
    expect(second.owned.get(100)).toBe(0);
    first.expectSound();
  });

  test("a run is removed up to the end of its leaf, over gaps, and to the empty tree", () => {
    const full = tree();
    for (let key = 0; key < 3000; key += 3) full.put(key);
    let at = 0;
    let gone = 0;
    const position = new Position();
    while (lookupNext(full.tree, full.root, at, position)) {
      const run = removeRun(full.tree, full.root, position.key, 2000);
      full.root = run.root;
      gone += run.count;
      at = run.next;
      if (run.count === 0) break;
    }
    expect(gone).toBe(667);
    expect(full.keys[0]).toBe(2001);
    full.expectSound();
    for (const key of full.keys) full.drop(key);
    expect(full.keys).toEqual([]);
    for (let spare = 0; spare < 3; spare++) full.drop(0);
    expect(full.nodes).toMatchObject([{ kind: "leaf", nrEntries: 0 }]);
    full.expectSound();
  });

  test("random removals from three levels keep every rule", () => {
    const deep = tree(24, 16384);
    const random = new Random(11);
    const keys = Array.from({ length: 12_000 }, (_, index) => index);
    for (const key of keys) deep.put(key);
    keys.sort(() => random.next() - 0.5);
    const left = new Set(keys);
    for (const [index, key] of keys.entries()) {
      expect(deep.drop(key)).toBe(1);
      left.delete(key);
      if (index % 1500 === 0) {
        deep.expectSound();
        expect(deep.keys).toEqual([...left].sort((a, b) => a - b));
      }
    }
    expect(deep.keys).toEqual([]);
  });
});

describe("sharing", () => {
  test("deleting a tree frees what it owns alone and gives up its share of the rest", () => {
    const bench = makeBench(8192);
    const first = new TestTree(bench).fill(0, 5000);
    bench.commit();
    const before = bench.map.root.nrAllocated;
    bench.transaction.inc(first.root);
    const second = new TestTree(bench, 8, first.root);
    for (let key = 0; key < 5000; key += 50) second.put(key, 100_000 + key);
    second.expectSound([first.root]);
    bench.commit();
    second.expectSound([first.root]);
    deleteTree(second.tree, second.root);
    bench.commit();
    first.expectSound();
    expect(bench.map.root.nrAllocated).toBe(before);
    expect(first.keys.length).toBe(5000);
    expect(first.get(50)).toBe(50);
    deleteTree(first.tree, first.root);
    bench.commit();
    expect(bench.map.root.nrAllocated).toBeLessThan(10);
  });

  test("a walk into the tree below shadows both, and reports a missing upper key", () => {
    const bench = makeBench(4096);
    const lower = new TestTree(bench);
    const upper = new TestTree(bench);
    const put = (key: number, value: number) => {
      const inserted = insertRunBelow(upper.tree, upper.root, 5, lower.tree, key, 1, () => makeValue(8, value));
      if (inserted !== undefined) upper.root = inserted.root;
      return inserted;
    };
    expect(put(1, 1)).toBeUndefined();
    upper.put(5, lower.root);
    for (let key = 0; key < 1000; key++) expect(put(key, key)?.added).toBe(1);
    expect(put(7, 70)?.added).toBe(0);
    lower.root = upper.get(5)!;
    expect(lower.keys.length).toBe(1000);
    expect(lower.get(7)).toBe(70);
    lower.expectSound();
  });
});

describe("random operations on several sharing trees equal a map each", () => {
  const step = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant("put" as const),
        tree: fc.nat(3),
        key: fc.nat(900),
        count: fc.integer({ min: 1, max: 60 }),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant("drop" as const),
        tree: fc.nat(3),
        key: fc.nat(900),
        count: fc.integer({ min: 1, max: 60 }),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("share" as const),
        tree: fc.nat(3),
        key: fc.nat(3),
        count: fc.constant(0),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("commit" as const),
        tree: fc.nat(3),
        key: fc.constant(0),
        count: fc.constant(0),
      }),
    },
  );
  test.each([4, 8, 16, 24])("values of %i bytes", (size) => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const bench = makeBench(1024);
        const trees = [0, 1, 2, 3].map(() => new TestTree(bench, size));
        const models = trees.map(() => new Map<number, number>());
        let value = 0;
        for (const { kind, tree: index, key, count } of steps) {
          const each = trees[index]!;
          const model = models[index]!;
          if (kind === "put") {
            for (let at = key; at < key + count; at++) {
              expect(each.put(at, ++value)).toBe(!model.has(at));
              model.set(at, value);
            }
          } else if (kind === "drop") {
            for (let at = key; at < key + count; at++) expect(each.drop(at)).toBe(model.delete(at) ? 1 : 0);
          } else if (kind === "share" && key !== index) {
            deleteTree(trees[key]!.tree, trees[key]!.root);
            bench.transaction.inc(each.root);
            trees[key]!.root = each.root;
            models[key] = new Map(model);
          } else if (kind === "commit") bench.commit();
        }
        for (const [index, each] of trees.entries()) {
          expect(each.keys).toEqual([...models[index]!.keys()].sort((a, b) => a - b));
          for (const [key, wanted] of models[index]!) expect(each.get(key)).toBe(wanted);
        }
        trees[0]!.expectSound(trees.slice(1).map(({ root }) => root));
        // Nothing is leaked: without the trees only the map's own blocks are left.
        for (const each of trees) deleteTree(each.tree, each.root);
        bench.commit();
        bench.commit();
        expect(bench.map.root.nrAllocated).toBe(4);
      }),
      { numRuns: 60 },
    );
  });
});

describe("damaged trees are refused", () => {
  const write = (each: TestTree, blocknr: number, offset: number, number: number) => {
    each.bench.blocks.write(blocknr, BTREE_NODE).view.setUint32(offset, number, true);
  };
  const everything = (each: TestTree): readonly (() => unknown)[] => [
    () => each.get(100),
    () => each.keys,
    () => highestKey(each.tree, each.root),
    () => lookupNext(each.tree, each.root, 100, new Position()),
    () => each.put(100, 1),
    () => each.drop(100),
    () => deleteTree(each.tree, each.root),
  ];
  const expectDamage = (damage: (each: TestTree) => void, which: readonly number[]) => {
    for (const index of which) {
      const each = tree().fill(0, 600);
      damage(each);
      let thrown: unknown;
      try {
        everything(each)[index]!();
      } catch (error) {
        thrown = error;
      }
      expect(thrown, `operation ${index}`).toBeInstanceOf(UdmError);
      expect((thrown as UdmError).code).toBe("EUCLEAN");
    }
  };

  test("a root that is its own child", () => {
    expectDamage(
      (each) => {
        for (let index = 0; index < 3; index++) write(each, each.root, 2048 + 8 * index, each.root);
      },
      [0, 1, 2, 3, 4],
    );
  });

  test("values of another size than the tree's", () => {
    expectDamage(
      (each) => {
        for (const { blocknr, kind } of each.nodes) if (kind === "leaf") write(each, blocknr, 24, 4);
      },
      [0, 1, 2, 3, 4, 5, 6],
    );
  });

  test("children outside the device", () => {
    expectDamage(
      (each) => {
        for (let index = 0; index < 3; index++) write(each, each.root, 2048 + 8 * index, 1_000_000);
      },
      [0, 1, 2, 3, 4, 5, 6],
    );
  });

  test("leaves that stand in each other's place", () => {
    expectDamage(
      (each) => {
        const [, first, second] = each.nodes;
        write(each, each.root, 2048, second!.blocknr);
        write(each, each.root, 2056, first!.blocknr);
      },
      [0, 1, 3, 6],
    );
  });
});
