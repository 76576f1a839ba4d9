/** Many commands on one state dir at the same moment, and state dirs that cannot be written. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { run } from "../../src/io/index.js";
import { HAS_THIN_TOOLS, thinCheck } from "../support/thin-tools.js";
import { finished, type Session, THROUGH_DAEMON, UDM, withSession } from "./session.js";

const PROCESSES = 50;

async function makePool(session: Session): Promise<void> {
  await session.ok("pool create pool --data data.img --metadata meta.img --data-size 64m --metadata-size 8m");
  await session.ok("thin create pool base --size 1m");
}

interface Thins {
  readonly thins: readonly { readonly name: string; readonly id: number; readonly origin: string | null }[];
}

test(`${PROCESSES} processes at once: each waits for its turn, and nothing that one did is lost`, async () => {
  await withSession(async (session) => {
    await makePool(session);
    const lines = Array.from({ length: PROCESSES }, (_, index) => {
      if (index % 5 === 3) return `thin create pool new${index} --size 1m`;
      if (index % 5 === 4) return `loop attach file${index}.img --size 1m`;
      return `thin snap base snap${index}`;
    });
    const ended = await Promise.all(lines.map((line) => session.udm(line)));
    for (const [index, { status, stderr }] of ended.entries()) expect(`${status}${stderr}`, lines[index]!).toBe("0");

    const { thins } = JSON.parse(await session.ok("thin list --json")) as Thins;
    const made = lines.filter((line) => line.startsWith("thin"));
    expect(thins.map(({ name }) => name).sort()).toEqual(
      ["base", ...made.map((line) => line.split(" ").find((word) => /\d$/.test(word))!)].sort(),
    );
    expect(thins.map(({ id }) => id).sort((a, b) => a - b)).toEqual(
      Array.from({ length: made.length + 1 }, (_, id) => id),
    );
    const loops = (await session.ok("loop list --no-headings -o name")).trimEnd().split("\n");
    expect(loops.map((name) => Number(name.slice("loop".length))).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 2 + PROCESSES / 5 }, (_, number) => number),
    );
    const numbers = (await session.ok("device list --no-headings -o maj:min")).trimEnd().split("\n");
    expect(new Set(numbers).size).toBe(made.length + 2);
    if (HAS_THIN_TOOLS && !THROUGH_DAEMON) expect(thinCheck(readFileSync(session.path("meta.img")))).toBeUndefined();
  });
});

test.skipIf(THROUGH_DAEMON)("who waits too long is told who has the lock, and nothing has changed", async () => {
  await withSession(async (session) => {
    await makePool(session);
    // Waits for its input, with everything open.
    const holder = session.start(process.execPath, [UDM, "thin", "write", "base"]);
    try {
      const pid = await holderOf(session);
      expect(pid).toBe(holder.pid);
      const ran = await session.udm("thin snap base late --lock-timeout 0.2");
      expect(ran.status).toBe(1);
      expect(ran.stdout).toBe("");
      expect(ran.stderr).toMatch(
        new RegExp(`^udm: .*locked by process ${pid} \\(write base\\).*\\nhint: .*--lock-timeout`),
      );
    } finally {
      holder.stdin!.end("done");
    }
    expect((await finished(holder)).status).toBe(0);
    expect(await session.ok("thin list --no-headings -o name")).toBe("base\n");
  });
});

/** The process that has the lock, as soon as there is one. */
async function holderOf(session: Session): Promise<number> {
  for (;;) {
    const text = readFileSync(session.path("state/lock"), "utf8");
    const found = /\d+/.exec(text);
    if (found !== null && text.includes("write base")) return Number(found[0]);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// A daemon has the state dir before the test can put a full disk in its place.
test.skipIf(process.getuid?.() !== 0 || THROUGH_DAEMON)(
  "a full disk under the state dir: an error, and all as it was (as root)",
  async () => {
    await withSession(async (session) => {
      await run("mkdir", [session.path("state")], { timeoutMs: 10_000 });
      await run("mount", ["-t", "tmpfs", "-o", "size=64k", "none", session.path("state")], { timeoutMs: 10_000 });
      try {
        await makePool(session);
        const before = readFileSync(session.path("state/state.json"));
        const filler = join(session.path("state"), "filler");
        fill(filler);
        const ran = await session.udm("thin snap base s");
        expect(ran.status).toBe(1);
        expect(ran.stderr).toMatch(/^udm: .*state.*no space left.*\nhint: /);
        expect(readFileSync(session.path("state/state.json")).equals(before)).toBe(true);
        expect(readdirSync(session.path("state")).sort()).toEqual([
          "filler",
          "lock",
          "state.json",
          "state.json.previous",
        ]);
        expect(await session.ok("thin list --no-headings -o name")).toBe("base\n");
        await run("rm", [filler], { timeoutMs: 10_000 });
        await session.ok("thin snap base s");
        expect(await session.ok("thin list --no-headings -o name")).toBe("base\ns\n");
      } finally {
        await run("umount", ["-l", session.path("state")], { timeoutMs: 10_000 });
      }
    });
  },
);

function fill(path: string): void {
  for (let bytes = 65536; bytes > 0; bytes -= 4096) {
    try {
      writeFileSync(path, Buffer.alloc(bytes), { flag: "a" });
    } catch {
      // Smaller, until nothing fits.
    }
  }
}

test.skipIf(process.getuid?.() !== 0)(
  "a read-only state dir: shown is what needs no lock, changes say why not (as root)",
  async () => {
    await withSession(async (session) => {
      await makePool(session);
      const state = session.path("state");
      await run("mount", ["--bind", state, state], { timeoutMs: 10_000 });
      try {
        await run("mount", ["-o", "remount,ro,bind", state], { timeoutMs: 10_000 });
        expect(await session.ok("loop list --no-headings -o name")).toBe("loop0\nloop1\n");
        expect(await session.ok("table show pool")).toMatch(/^0 131072 thin-pool /);
        for (const words of ["thin snap base s", "loop attach x.img --size 1m"]) {
          const ran = await session.udm(words);
          expect(ran.status).toBe(1);
          expect(ran.stderr).toMatch(/^udm: .*read-only file system\nhint: /);
        }
      } finally {
        await run("umount", [state], { timeoutMs: 10_000 });
      }
      await session.ok("thin snap base s");
    });
  },
);

test.skipIf(THROUGH_DAEMON)("a damaged state file is not touched; the copy before it is named and works", async () => {
  await withSession(async (session) => {
    await makePool(session);
    const path = session.path("state/state.json");
    const good = readFileSync(path, "utf8");
    for (const damaged of ["", "{", good.slice(0, good.length / 2), "[]"]) {
      writeFileSync(path, damaged);
      const ran = await session.udm("thin snap base s");
      expect(ran.status).toBe(1);
      expect(ran.stderr).toMatch(
        /^udm: state file .*state\.json is damaged: .*\nhint: the copy before it .* is good: cp /,
      );
      expect(readFileSync(path, "utf8")).toBe(damaged);
      const [, command] = /is good: (cp .*)\n/.exec(ran.stderr)!;
      expect((await session.bash(command!)).status).toBe(0);
      // One change less, and the pool's metadata tells what it was.
      await session.ok("thin list");
      writeFileSync(path, good);
    }
    writeFileSync(path, good.replace(/"version": ?\d+/, '"version": 99'));
    const ran = await session.udm("thin list");
    expect([ran.status, ran.stdout]).toEqual([1, ""]);
    expect(ran.stderr).toMatch(/version 99, this udm reads up to \d+\nhint: use the newer udm/);
  });
});
