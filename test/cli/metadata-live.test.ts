/**
 * The tools that only read metadata, on pools that nobody, the daemon, or somebody else has in use: what they find is of
 * one moment, and the pool is as it was afterwards.
 */
import { type ChildProcess, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { HAS_THIN_TOOLS, parseDump, thinCheck } from "../support/thin-tools.js";
import { finished, type Session, THROUGH_DAEMON, withSession } from "./session.js";

const BLOCK = 65536;
/** One more than the daemon's own commits could hide: several commits while the tools run. */
const WRITTEN = 64;

/** Each tool, and what it must find in a pool of `mapped` blocks, all of device 0. */
const TOOLS: Readonly<Record<string, { readonly words: string; readonly finds: (mapped: number) => RegExp }>> = {
  check: { words: "check", finds: (mapped) => new RegExp(`\\b${mapped} mappings in \\d+ leaves\\n.*clean\\n$`, "s") },
  dump: { words: "dump", finds: (mapped) => new RegExp(`<device dev_id="0" mapped_blocks="${mapped}" `) },
  ls: { words: "ls --no-headers -o DEV,MAPPED_BLOCKS", finds: (mapped) => new RegExp(`^ *0 +${mapped} *\\n`) },
  delta: {
    words: "delta --thin1 0 --thin2 1",
    finds: (mapped) => new RegExp(`<left_only begin="0" length="${mapped}"/>`),
  },
  rmap: {
    words: "rmap --region 0..1000",
    finds: (mapped) => new RegExp(`^data 0\\.\\.${mapped} -> thin\\(0\\) 0\\.\\.${mapped}\\n$`),
  },
};
const SIZE_FINDS = /metadata of 8M, .* advised for 128M of data\nand \d+ thin devices: /;

async function makePool(session: Session): Promise<void> {
  const sizes = ["--data-size", "128m", "--metadata-size", "8m"];
  await session.ok(["pool", "create", "pool", "--data", "data.img", "--metadata", "meta.img", ...sizes]);
  await session.ok("thin create pool a --size 64m");
  await session.ok("thin create pool b --size 64m");
  await session.ok("thin write a", { input: Buffer.alloc(WRITTEN * BLOCK, 1) });
}

const metadataOf = (session: Session): Buffer => readFileSync(session.path("meta.img"));

/** Writes to `a` behind what is there, block after block, for as long as the body runs. */
async function withWriter<T>(session: Session, body: (writer: ChildProcess) => Promise<T>): Promise<T> {
  const writer = session.start("udm", ["thin", "write", "a", "--offset", String(WRITTEN * BLOCK)]);
  const ended = finished(writer);
  try {
    return await body(writer);
  } finally {
    writer.stdin!.end();
    const ran = await ended;
    expect(ran.stderr).toBe("");
    expect(ran.status).toBe(0);
  }
}

async function feed(writer: ChildProcess, blocks: number): Promise<void> {
  if (!writer.stdin!.write(Buffer.alloc(blocks * BLOCK, 2))) await once(writer.stdin!, "drain");
}

describe.skipIf(THROUGH_DAEMON)("in a pool that nobody has in use", () => {
  test("each tool finds what is there by name, loop device and file, and changes nothing", async () => {
    await withSession(async (session) => {
      await makePool(session);
      const before = metadataOf(session);
      for (const [name, { words, finds }] of Object.entries(TOOLS)) {
        const outputs: string[] = [];
        for (const source of ["pool", "7:0", "meta.img", session.path("meta.img")]) {
          const output = await session.ok(`metadata ${words} ${source}`);
          expect(output, `${name} ${source}`).toMatch(finds(WRITTEN));
          outputs.push(output);
        }
        expect(new Set(outputs).size, name).toBe(1);
      }
      for (const source of ["pool", "meta.img"])
        expect(await session.ok(`metadata size ${source}`)).toMatch(SIZE_FINDS);
      expect(metadataOf(session).equals(before)).toBe(true);
    });
  });

  test("-m reads the metadata snapshot, not what came later; without one it is refused", async () => {
    await withSession(async (session) => {
      await makePool(session);
      const refused = await session.udm("metadata check -m pool");
      expect(refused).toMatchObject({ status: 1, stdout: "" });
      expect(refused.stderr).toMatch(/^udm: pool: no metadata snapshot\nhint: udm pool message pool reserve/);
      await session.ok("pool message pool reserve_metadata_snap");
      await session.ok("thin write a --offset 48m", { input: Buffer.alloc(4 * BLOCK, 3) });
      for (const [name, { words, finds }] of Object.entries(TOOLS)) {
        expect(await session.ok(`metadata ${words} -m pool`), name).toMatch(finds(WRITTEN));
      }
      expect(await session.ok("metadata ls --no-headers -o DEV,MAPPED_BLOCKS pool")).toMatch(/^ *0 +68 *\n/);
    });
  });
});

describe("in a pool that the daemon has in use", () => {
  /** The daemon has it open, and bytes are on their way: `body` may send more. */
  async function withBusyPool(body: (session: Session, writer: ChildProcess) => Promise<void>): Promise<void> {
    await withSession(async (session) => {
      await makePool(session);
      if (!THROUGH_DAEMON) await session.ok("daemon start");
      await withWriter(session, async (writer) => {
        await feed(writer, 1);
        const openPools = async () => JSON.parse(await session.ok("daemon status --json")).daemon.openPools;
        await expect.poll(openPools).toEqual(["pool"]);
        await body(session, writer);
      });
      // The snapshots that were taken are gone, and everything that was counted is there.
      expect(JSON.parse(await session.ok("pool status --json")).pools[0].heldRoot).toBeNull();
      if (!THROUGH_DAEMON) await session.ok("daemon stop");
      const image = metadataOf(session);
      if (HAS_THIN_TOOLS) expect(thinCheck(image)).toBeUndefined();
    });
  }

  test("each tool reads it by name, loop device and file as it is now, while it is written", async () => {
    await withBusyPool(async (session, writer) => {
      let least = WRITTEN;
      for (const [name, { words }] of Object.entries(TOOLS)) {
        for (const source of ["pool", "7:0", "meta.img"]) {
          await feed(writer, 3);
          const output = await session.ok(`metadata ${words} ${source}`);
          const mapped = Number(
            /\d+(?= mappings in)|(?<=mapped_blocks=")\d+|(?<=^ *0 +)\d+|(?<=length=")\d+|(?<=data 0\.\.)\d+/.exec(
              output,
            )?.[0],
          );
          expect(output, `${name} ${source}`).toMatch(TOOLS[name]!.finds(mapped));
          expect(mapped, `${name} ${source}`).toBeGreaterThanOrEqual(least);
          least = mapped;
        }
      }
      expect(await session.ok("metadata size pool")).toMatch(SIZE_FINDS);
      expect(await session.ok("metadata size meta.img")).toMatch(SIZE_FINDS);
    });
  });

  test("a dump is of one moment: what was written in order is there up to a point, and restores", async () => {
    await withBusyPool(async (session, writer) => {
      let isOver = false;
      const feeding = (async () => {
        for (let sent = 0; !isOver && sent < 800; sent += 8) await feed(writer, 8);
      })();
      for (let round = 0; round < 4; round++) {
        const xml = await session.ok("metadata dump pool");
        const [first, second] = parseDump(xml).devices;
        expect(second?.mappings).toEqual([]);
        expect(first!.mappings).toEqual(first!.mappings.map((_, index) => [index, index, 0]));
        expect(first!.mappedBlocks).toBe(first!.mappings.length);
        writeFileSync(session.path("xml"), xml);
        writeFileSync(session.path("copy.img"), Buffer.alloc(2 ** 21));
        await session.ok("metadata restore -q -i xml -o copy.img --yes");
        expect(await session.ok("metadata dump copy.img")).toBe(xml);
        if (HAS_THIN_TOOLS) expect(thinCheck(readFileSync(session.path("copy.img")))).toBeUndefined();
      }
      isOver = true;
      await feeding;
    });
  });

  test("two readers share a metadata snapshot; one of them that is killed leaves none behind", async () => {
    await withBusyPool(async (session) => {
      const runs = Array.from({ length: 3 }, () => session.udm("metadata check pool"));
      const killed = session.start("udm", ["metadata", "dump", "pool", "-o", "xml"]);
      killed.stdin!.end();
      const heldRoots = async () => JSON.parse(await session.ok("pool status --json")).pools[0].heldRoot;
      killed.kill("SIGKILL");
      for (const ran of await Promise.all(runs)) expect(ran).toMatchObject({ status: 0 });
      await expect.poll(heldRoots).toBeNull();
    });
  });

  test("a metadata snapshot that was there is read, with a word, and stays", async () => {
    await withBusyPool(async (session, writer) => {
      await session.ok("pool message pool reserve_metadata_snap");
      await feed(writer, 200);
      const ran = await session.udm(`metadata ${TOOLS.ls!.words} pool`);
      expect(ran.stderr).toBe("udm: pool: it is in use; its metadata snapshot is read, which may be older\n");
      expect(ran.stdout).toMatch(/^ *0 +6\d *\n/);
      expect(await session.udm(`metadata ${TOOLS.ls!.words} -m pool`)).toMatchObject({
        stdout: ran.stdout,
        stderr: "",
      });
      expect((await session.udm("metadata check -q pool")).stderr).toBe("");
      expect(JSON.parse(await session.ok("pool status --json")).pools[0].heldRoot).not.toBeNull();
      await session.ok("pool message pool release_metadata_snap");
    });
  });

  test("what would change it is refused with the holder's name", async () => {
    await withBusyPool(async (session) => {
      writeFileSync(session.path("xml"), await session.ok("metadata dump pool"));
      for (const line of [
        "metadata check --auto-repair pool",
        "metadata check --clear-needs-check-flag meta.img",
        "metadata restore --yes -i xml -o pool",
        "metadata restore --yes -i xml -o meta.img",
        "metadata dump pool -o meta.img",
        "metadata dump pool -o data.img",
      ]) {
        const ran = await session.udm(line);
        expect(ran, line).toMatchObject({ stdout: "" });
        expect(ran.status, line).toBeGreaterThan(0);
        expect(ran.stderr, line).toMatch(/^udm: .*(is held by .*\d+|is what is read|loop device 7:1).*\nhint: .*\n$/);
      }
    });
  });
});

describe.skipIf(THROUGH_DAEMON)("a daemon that is killed while somebody reads", () => {
  const heldRoot = async (session: Session) => {
    // What the command mends is told on standard error.
    const ran = await session.udm("pool status --json");
    expect(ran.status).toBe(0);
    return JSON.parse(ran.stdout).pools[0].heldRoot as number | null;
  };

  /** `meanwhile` runs while the snapshot is there; then the daemon, and all that used it, is gone. */
  async function withKilledDaemon(
    { before = [], meanwhile = [] }: { readonly before?: readonly string[]; readonly meanwhile?: readonly string[] },
    body: (session: Session) => Promise<void>,
  ): Promise<void> {
    await withSession(async (session) => {
      await makePool(session);
      spawnSync("mkfifo", [session.path("pipe")]);
      await session.ok("daemon start");
      const daemon = JSON.parse(await session.ok("daemon status --json")).daemon.pid as number;
      const children: ChildProcess[] = [];
      const ended: Promise<unknown>[] = [];
      const start = (words: readonly string[]): ChildProcess => {
        const child = session.start("udm", words);
        children.push(child);
        ended.push(finished(child));
        return child;
      };
      try {
        const writer = start(["thin", "write", "a", "--offset", String(WRITTEN * BLOCK)]);
        writer.stdin!.on("error", () => undefined);
        await feed(writer, 1);
        // The daemon has the pool, before somebody else can have it.
        await expect.poll(() => session.ok("device info a --json"), { timeout: 20_000 }).toContain('"openCount": 1');
        for (const line of before) await session.ok(line);
        // It waits for somebody who opens the pipe.
        start(["metadata", "dump", "pool", "-o", "pipe"]);
        await expect.poll(() => heldRoot(session), { timeout: 20_000 }).not.toBeNull();
        await expect.poll(() => session.ok("daemon status"), { timeout: 20_000 }).toContain("metadata-snapshot");
        for (const line of meanwhile) await session.ok(line);
      } finally {
        process.kill(daemon, "SIGKILL");
        for (const child of children) child.kill("SIGKILL");
        await Promise.all(ended);
      }
      await body(session);
      const checked = await session.udm("metadata check pool");
      expect(checked.stdout).toMatch(/clean\n$/);
      if (HAS_THIN_TOOLS) expect(thinCheck(metadataOf(session))).toBeUndefined();
    });
  }

  test("leaves a metadata snapshot that doctor tells of and the next command releases", async () => {
    await withKilledDaemon({}, async (session) => {
      const doctor = await session.udm("doctor");
      expect(doctor.status).toBe(3);
      expect(doctor.stdout).toContain("left the metadata snapshot it held for a reader");
      expect(await heldRoot(session)).toBeNull();
      expect((await session.udm("doctor")).stdout).not.toContain("metadata snapshot");
    });
  });

  test("or the next daemon", async () => {
    await withKilledDaemon({}, async (session) => {
      await session.ok("daemon start");
      expect(await heldRoot(session)).toBeNull();
      await session.ok("daemon stop");
    });
  });

  test("has released nothing that somebody took by a message", async () => {
    const [reserve, release] = ["reserve_metadata_snap", "release_metadata_snap"].map(
      (word) => `pool message pool ${word}`,
    ) as [string, string];
    for (const lines of [{ before: [reserve] }, { meanwhile: [release, reserve] }]) {
      await withKilledDaemon(lines, async (session) => {
        expect((await session.udm("doctor")).stdout).not.toContain("metadata snapshot");
        expect(await heldRoot(session)).not.toBeNull();
        await session.ok(release);
        expect(await heldRoot(session)).toBeNull();
      });
    }
  });
});

describe.skipIf(THROUGH_DAEMON)("in a pool that another process has in use", () => {
  async function withForeignPool(body: (session: Session, writer: ChildProcess) => Promise<void>): Promise<void> {
    await withSession(async (session) => {
      await makePool(session);
      await withWriter(session, async (writer) => {
        await feed(writer, 1);
        await untilOpen(session, writer);
        await body(session, writer);
      });
    });
  }
  /** Nobody may look before: a reader's claim would be in its way. */
  async function untilOpen(session: Session, { pid }: ChildProcess): Promise<void> {
    const isOpen = () => {
      const fds = readdirSync(`/proc/${pid}/fd`).map((fd) => linkOf(`/proc/${pid}/fd/${fd}`));
      return fds.filter((path) => path === session.path("data.img")).length > 1;
    };
    await expect.poll(isOpen).toBe(true);
  }
  function linkOf(path: string): string | undefined {
    try {
      return readlinkSync(path);
    } catch {
      return undefined;
    }
  }
  const other = (words: string, source: string) => `metadata ${words} ${source} --state-dir elsewhere`;

  test("each tool is refused and names the holder, from another state dir and from the same", async () => {
    await withForeignPool(async (session, writer) => {
      for (const { words } of Object.values(TOOLS)) {
        for (const [line, says] of [
          [other(words, "meta.img"), "meta.img: is held by"],
          [`metadata ${words} meta.img`, "meta.img: is held by"],
          [`metadata ${words} pool`, "pool: is held by"],
        ] as const) {
          const ran = await session.udm(line);
          expect(ran, line).toMatchObject({ status: 1, stdout: "" });
          expect(ran.stderr, line).toContain(says);
          expect(ran.stderr, line).toContain(String(writer.pid));
          expect(ran.stderr, line).toMatch(/\nhint: .*--force-read-only.*\n$/);
        }
        const asked = await session.udm(other(`${words} -m`, "meta.img"));
        expect(asked).toMatchObject({ status: 1, stdout: "" });
        expect(asked.stderr).toMatch(/has no metadata snapshot to read\nhint: /);
      }
      expect(await session.ok("metadata size meta.img --state-dir elsewhere")).toMatch(SIZE_FINDS);
    });
  });

  test("--force-read-only reads what was committed last while nothing is committed, and writes nothing", async () => {
    await withForeignPool(async (session) => {
      const before = metadataOf(session);
      for (const [name, { words, finds }] of Object.entries(TOOLS)) {
        expect(await session.ok(other(`${words} --force-read-only`, "meta.img")), name).toMatch(finds(WRITTEN));
      }
      expect(metadataOf(session).equals(before)).toBe(true);
    });
  });

  test("its metadata snapshot is read with -m", async () => {
    await withSession(async (session) => {
      await makePool(session);
      await session.ok("pool message pool reserve_metadata_snap");
      await withWriter(session, async (writer) => {
        await feed(writer, 40);
        await untilOpen(session, writer);
        for (const [name, { words, finds }] of Object.entries(TOOLS)) {
          expect(await session.ok(other(`${words} -m`, "meta.img")), name).toMatch(finds(WRITTEN));
        }
      });
    });
  });
});

test.skipIf(!HAS_THIN_TOOLS)("thin_check and thin_dump accept what was left behind", async () => {
  await withSession(async (session) => {
    await makePool(session);
    const { status } = spawnSync("thin_check", ["-q", session.path("meta.img")], { env: session.environment });
    expect(status).toBe(0);
  });
});
