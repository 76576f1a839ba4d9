/**
 * A command may be killed at any moment. At every step of every operation that changes a pool and the state, and behind
 * every write of a superblock and of the state, the folder is copied as it is on disk: that is what a crash there would
 * leave. Each copy must open, with the operation done or not begun, nothing in between, and metadata that is whole.
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test, vi } from "vitest";
import { StateFile } from "../../src/device-registry/index.js";
import { FileIo } from "../../src/io/file-io.js";
import { METADATA_BLOCK_BYTES } from "../../src/persistent-data/index.js";
import { HAS_THIN_TOOLS, thinCheck } from "../support/thin-tools.js";
import { MIB, makeHost, makePool, pattern, type TestHost, write } from "./make-host.js";
import { copyOf, sight } from "./sight.js";

interface Case {
  readonly name: string;
  readonly prepare?: (host: TestHost) => Promise<unknown>;
  readonly operation: (host: TestHost) => Promise<unknown>;
  /** Steps that must have been cut. */
  readonly steps: readonly string[];
}

async function withThin(host: TestHost): Promise<void> {
  await makePool(host);
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 4 * MIB });
  await write(host, "a", pattern(MIB, 1));
}

async function withSnapshot(host: TestHost): Promise<void> {
  await withThin(host);
  await host.snapThin({ origin: "a", name: "s" });
  await write(host, "a", pattern(MIB, 2), 65536);
}

const CASES: readonly Case[] = [
  {
    name: "pool create",
    operation: (host) => makePool(host),
    steps: ["files made", "announced", "loaded", "formatted"],
  },
  {
    name: "thin create",
    prepare: withThin,
    operation: (host) => host.createThin({ pool: "pool", name: "b", sizeBytes: MIB }),
    steps: ["announced", "committed"],
  },
  {
    name: "thin snap",
    prepare: withThin,
    operation: (host) => host.snapThin({ origin: "a", name: "s" }),
    steps: ["announced", "committed"],
  },
  {
    name: "thin delete",
    prepare: withSnapshot,
    operation: (host) => host.deleteThin("s"),
    steps: ["announced", "committed"],
  },
  {
    name: "thin rollback",
    prepare: withSnapshot,
    operation: (host) => host.rollbackThin("a", "s"),
    steps: ["announced", "made", "changed over", "deleted"],
  },
  {
    name: "several at once",
    prepare: withSnapshot,
    operation: async (host) => {
      await host.begin("test");
      try {
        await host.createThin({ pool: "pool", name: "b", sizeBytes: MIB });
        await host.snapThin({ origin: "a", name: "s2" });
        await host.deleteThin("s");
        await host.commit();
      } finally {
        await host.undo();
      }
    },
    steps: ["announced", "committed"],
  },
  {
    name: "pool resize",
    prepare: withThin,
    operation: (host) =>
      host.resizePool({ name: "pool", data: { kind: "grow", bytes: MIB }, metadata: { kind: "grow", bytes: MIB } }),
    steps: ["files grown", "swapped", "announced", "taken up"],
  },
  {
    name: "pool resize of metadata alone",
    prepare: withThin,
    operation: (host) => host.resizePool({ name: "pool", metadata: { kind: "grow", bytes: MIB } }),
    steps: ["files grown", "swapped", "announced", "taken up"],
  },
  {
    name: "pool resize of metadata while a loop device has grown already",
    prepare: async (host) => {
      await withThin(host);
      await host.resizeLoop("7:1", 65 * MIB);
    },
    operation: (host) =>
      host.resizePool({ name: "pool", data: { kind: "grow", bytes: MIB }, metadata: { kind: "grow", bytes: 2 * MIB } }),
    steps: ["files grown", "swapped", "announced", "taken up"],
  },
  {
    name: "thin rename",
    prepare: withSnapshot,
    operation: (host) => host.renameThin("a", "z"),
    steps: [],
  },
  {
    name: "thin resize",
    prepare: withThin,
    operation: (host) => host.resizeThin("a", { kind: "grow", bytes: MIB }),
    steps: [],
  },
  {
    name: "table suspend",
    prepare: withThin,
    operation: (host) => host.suspend("pool"),
    steps: [],
  },
  {
    name: "thin deactivate",
    prepare: withSnapshot,
    operation: (host) => host.deactivateThin("s"),
    steps: [],
  },
  {
    name: "pool remove",
    prepare: (host) => makePool(host),
    operation: (host) => host.removePool("pool"),
    steps: [],
  },
  {
    name: "table resume of a longer pool",
    prepare: async (host) => {
      await withThin(host);
      await host.suspend("pool");
      await host.resizePool({ name: "pool", data: { kind: "grow", bytes: MIB } });
    },
    operation: (host) => host.resume("pool"),
    steps: ["swapped", "taken up"],
  },
  {
    name: "pool remove --destroy",
    prepare: (host) => makePool(host),
    operation: (host) => host.removePool("pool", { destroy: true }),
    steps: ["announced", "wiped"],
  },
  {
    name: "loop resize",
    prepare: (host) => host.attachLoop({ file: host.path("x"), sizeBytes: MIB }),
    operation: (host) => host.resizeLoop("7:0", 2 * MIB),
    steps: ["file resized"],
  },
];

/** Calls `cut` behind each write by which a change becomes true. */
function watchWrites(cut: (place: string) => void): Disposable {
  const { write } = FileIo.prototype;
  const around = vi.spyOn(FileIo.prototype, "write").mockImplementation(function (this: FileIo, offset, buffer) {
    const isSuperblock = offset === 0 && buffer.length === METADATA_BLOCK_BYTES;
    write.call(this, offset, buffer);
    if (isSuperblock) cut(`superblock of ${this.name}`);
  });
  const replace = StateFile.prototype.write;
  const state = vi.spyOn(StateFile.prototype, "write").mockImplementation(async function (this: StateFile, next) {
    await replace.call(this, next);
    cut("state");
  });
  return {
    [Symbol.dispose]: () => {
      around.mockRestore();
      state.mockRestore();
    },
  };
}

describe("cut off at every step, an operation is done or was never begun", () => {
  test.each(CASES)("$name", async ({ prepare, operation, steps }) => {
    const first = await makeHost();
    await prepare?.(first);
    const before = await sight(first);
    const images: { readonly step: string; readonly folder: string }[] = [];
    const cut = (step: string) => void images.push({ step, folder: copyOf(first.folder) });
    const host = await makeHost({ folder: first.folder, onStep: cut });
    try {
      {
        using _watching = watchWrites(cut);
        await operation(host);
      }
      const after = await sight(first);
      expect(after).not.toBe(before);
      expect(images.map(({ step }) => step)).toEqual(expect.arrayContaining([...steps, "state"]));
      for (const { step, folder } of images) {
        const reopened = await makeHost({ folder });
        // Anything that is asked for mends first.
        const seen = await sight(reopened);
        expect([before, after], `cut at '${step}'`).toContain(seen);
        const state = join(folder, "state/state.json");
        if (existsSync(state)) expect(readFileSync(state, "utf8")).toContain('"intents": []');
        const metadata = join(folder, "pool-meta.img");
        if (HAS_THIN_TOOLS && existsSync(metadata) && (await reopened.listPools()).length > 0) {
          expect(thinCheck(readFileSync(metadata))).toBeUndefined();
        }
        // And the operation can be carried out now, where it was not.
        if (seen === before) {
          await operation(reopened);
          expect(await sight(reopened)).toBe(after);
        }
      }
    } finally {
      for (const { folder } of images) rmSync(folder, { recursive: true, force: true });
    }
  });
});

describe("an error between two steps undoes what was done", () => {
  test.each(CASES)("$name", async ({ prepare, operation, steps }) => {
    for (const cut of steps) {
      const host = await makeHost();
      await prepare?.(host);
      const before = await sight(host);
      const failing = await makeHost({
        folder: host.folder,
        onStep: (step) => {
          if (step === cut) throw new Error(`failed after '${cut}'`);
        },
      });
      await expect(operation(failing)).rejects.toThrow(`failed after '${cut}'`);
      const seen = await sight(host);
      if (seen === before) await operation(host);
      const after = await sight(host);
      expect(after).not.toBe(before);
      expect([before, after]).toContain(seen);
    }
  });
});

describe("killed for real", () => {
  test("a process that is killed while it holds everything leaves a host that works", async () => {
    const host = await makeHost();
    await withSnapshot(host);
    const before = await sight(host);
    for (const step of ["announced", "made", "changed over"]) {
      expect(await runKilled(host.folder, step)).toBe("SIGKILL");
      const seen = await sight(host);
      if (step !== "changed over") expect(seen).toBe(before);
      else expect(seen).toContain("thin a");
    }
    expect(await host.listThins()).toHaveLength(2);
  });
});

/** Runs a rollback in a process of its own that kills itself at a step. */
async function runKilled(folder: string, step: string): Promise<NodeJS.Signals | null> {
  const host = fileURLToPath(new URL("../../src/host/index.ts", import.meta.url));
  const source = `
    import { openHost } from ${JSON.stringify(host)};
    const host = await openHost({
      stateDir: ${JSON.stringify(join(folder, "state"))},
      runDir: ${JSON.stringify(join(folder, "run"))},
      onStep: (step) => { if (step === ${JSON.stringify(step)}) process.kill(process.pid, "SIGKILL"); },
    });
    await host.rollbackThin("a", "s");
  `;
  const child = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", source], {
    cwd: fileURLToPath(new URL("../..", import.meta.url)),
    stdio: "ignore",
  });
  return new Promise((resolve) => child.on("exit", (_code, signal) => resolve(signal)));
}
