import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  formatConcise,
  formatState,
  formatTable,
  mangle,
  parseConcise,
  parseName,
  parseState,
  parseTable,
  Registry,
  type State,
  unmangle,
} from "../../src/device-registry/index.js";
import { TestMachine } from "./machine.js";

const word = fc.string({ unit: fc.constantFrom(..."abcXYZ0189-_.:+"), minLength: 1, maxLength: 8 });

describe("table text", () => {
  test("comments, blank lines and line numbers", () => {
    expect(parseTable("# a\n\n  0 8 zero # c\n8 8\terror x#y z\n")).toEqual([
      { startSectors: 0, lengthSectors: 8, type: "zero", args: [] },
      { startSectors: 8, lengthSectors: 8, type: "error", args: ["x"] },
    ]);
    expect(() => parseTable("0 8 zero\n\n#\n8 zero")).toThrow("line 4");
    expect(() => parseTable("12 zero", "file")).toThrow("line 1 of table file");
  });

  test("printing and parsing again gives the same lines", () => {
    const lines = fc.array(
      fc.record({
        startSectors: fc.nat(),
        lengthSectors: fc.nat(),
        type: fc.constantFrom("linear", "striped", "thin"),
        args: fc.array(word, { maxLength: 5 }),
      }),
    );
    fc.assert(
      fc.property(lines, (table) => {
        expect(parseTable(formatTable(table))).toEqual(table);
      }),
    );
  });
});

describe("concise form", () => {
  test("any names survive, whatever they hold", () => {
    const name = fc
      .string({ unit: fc.constantFrom(..."ab,;\\ é"), minLength: 1, maxLength: 6 })
      .map((text) => `x${text}`);
    const device = fc.record({
      name,
      uuid: name,
      minor: fc.option(fc.nat(1000), { nil: undefined }),
      readOnly: fc.boolean(),
      table: fc.array(
        fc.record({
          startSectors: fc.nat(),
          lengthSectors: fc.nat(),
          type: fc.constantFrom("linear", "thin"),
          args: fc.array(word, { minLength: 1, maxLength: 3 }),
        }),
        { minLength: 1, maxLength: 3 },
      ),
    });
    fc.assert(
      fc.property(fc.array(device, { minLength: 1, maxLength: 4 }), (devices) => {
        expect(parseConcise(formatConcise(devices))).toEqual(devices);
      }),
    );
  });

  test.each(["c7,,,,", "c8,,,0 8 zero", "c9", "c10,,,rx,0 8 zero", "c11,,x,,0 8 zero", "c12,,,,0 8 zero\\"])(
    "%s is refused",
    (text) => expect(() => parseConcise(text)).toThrow(expect.objectContaining({ code: "EINVAL" })),
  );
});

describe("names", () => {
  test("both forms of a name are the same device", async () => {
    const registry = new Registry({ devices: [], below: new TestMachine() });
    registry.create({ name: "sp\\x20ace" });
    expect(registry.get("sp ace").name).toBe("sp ace");
    expect(registry.get("/dev/mapper/sp\\x20ace").name).toBe("sp ace");
    expect(() => registry.create({ name: "sp ace" })).toThrow("in use");
  });

  test("rewriting and back is the identity", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        expect(unmangle(mangle(text))).toBe(text);
      }),
    );
  });

  test("the limit counts bytes of the rewritten form", () => {
    expect(parseName("n".repeat(127))).toHaveLength(127);
    expect(() => parseName("n".repeat(128))).toThrow("too long");
    expect(() => parseName("é".repeat(16))).toThrow("128 bytes");
    expect(() => parseName("mix\\x20ed one")).toThrow("mixed");
    expect(() => parseName("dou\\x5cx20ble")).toThrow("more than once");
  });
});

describe("minors and users", () => {
  test("the lowest free minor is taken; one in use is refused", () => {
    const registry = new Registry({ devices: [], below: new TestMachine() });
    expect(["a", "b", "c"].map((name) => registry.create({ name }).minor)).toEqual([0, 1, 2]);
    expect(() => registry.create({ name: "d", minor: 1 })).toThrow(expect.objectContaining({ code: "ENXIO" }));
    expect(registry.create({ name: "d", minor: 9 }).minor).toBe(9);
  });

  test("each table of another device counts as an opener, and names the user", async () => {
    const registry = new Registry({ devices: [], below: new TestMachine() });
    const zero = parseTable("0 64 zero");
    registry.create({ name: "a", uuid: "U" });
    await registry.load("a", zero);
    await registry.resume("a");
    registry.create({ name: "b" });
    await registry.load("b", parseTable("0 8 linear a 0"));
    await registry.resume("b");
    await registry.load("b", parseTable("0 16 linear 253:0 0\n16 8 linear /dev/vda 0"));
    expect(registry.openCount(registry.get("a"))).toBe(2);
    expect(registry.usersOf("253:0")).toEqual(["b"]);
    expect(registry.dependencies(registry.get("b"), { inactive: true })).toEqual(["254:0", "253:0"]);
    await expect(registry.remove("a")).rejects.toMatchObject({ code: "EBUSY", message: "'a' is in use by b" });
    expect(() => registry.create({ name: "c", uuid: "U" })).toThrow("in use by 'a'");
  });

  test("requests wait while the device is suspended, and go on afterwards", async () => {
    const registry = new Registry({ devices: [], below: new TestMachine() });
    registry.create({ name: "a" });
    await registry.load("a", parseTable("0 64 linear /dev/vda 0"));
    await registry.resume("a");
    const device = await registry.open("a");
    await registry.suspend("a");
    let isDone = false;
    const write = device.write(0, Buffer.alloc(512, 9)).then(() => {
      isDone = true;
    });
    await new Promise(setImmediate);
    expect(isDone).toBe(false);
    await registry.load("a", parseTable("0 64 linear /dev/vda 64"));
    await registry.resume("a");
    await write;
    const there = Buffer.alloc(512);
    await device.read(0, there);
    expect(there.every((byte) => byte === 9)).toBe(true);
  });
});

describe("the state", () => {
  const state: State = {
    serial: 3,
    loops: [
      {
        number: 0,
        file: "/a",
        offsetBytes: 0,
        sizeLimitBytes: 0,
        sizeBytes: 512,
        readOnly: false,
        sectorBytes: 512,
        autoclear: true,
      },
    ],
    devices: [
      {
        name: "p",
        uuid: "",
        minor: 0,
        readOnly: false,
        suspended: false,
        eventNr: 1,
        deferredRemove: false,
        live: [{ startSectors: 0, lengthSectors: 8, type: "zero", args: [] }],
        inactive: { lines: [], readOnly: true },
        pool: {
          runtime: { mode: "out-of-data-space", errorsNow: true, lowWaterTriggered: true, eventNr: 4 },
          thins: [{ id: 1, name: "t", sizeBytes: 512, readOnly: false, creationTime: 0, deleteWhenClosed: false }],
        },
      },
    ],
    intents: [{ kind: "delete-thin", pool: "p", id: 1, isLeftOver: false }],
  };

  test("is read back as it was written", () => {
    expect(parseState(formatState(state))).toEqual(state);
  });

  test("any part that is missing, of another kind, or unknown is found", () => {
    const paths: (readonly (string | number)[])[] = [];
    const walk = (value: unknown, path: readonly (string | number)[]) => {
      if (typeof value !== "object" || value === null) return;
      for (const [key, each] of Object.entries(value)) {
        paths.push([...path, key]);
        walk(each, [...path, key]);
      }
    };
    walk(JSON.parse(formatState(state)), []);
    expect(paths.length).toBeGreaterThan(40);
    const change = (path: readonly (string | number)[], to: (parent: Record<string, unknown>, key: string) => void) => {
      const copy = JSON.parse(formatState(state)) as Record<string, unknown>;
      let parent = copy;
      for (const key of path.slice(0, -1)) parent = parent[key] as Record<string, unknown>;
      to(parent, String(path.at(-1)));
      return JSON.stringify(copy);
    };
    for (const path of paths) {
      const wrong = change(path, (parent, key) => {
        parent[key] = typeof parent[key] === "string" ? 7 : "x";
      });
      expect(() => parseState(wrong), path.join(".")).toThrow();
    }
    expect(() => parseState(change(["devices", 0, "new"], (parent, key) => (parent[key] = 1)))).toThrow("unknown");
    expect(() => parseState(change(["devices", 0, "minor"], (parent, key) => delete parent[key]))).toThrow("minor");
  });
});
