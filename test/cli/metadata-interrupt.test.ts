/**
 * The tools for metadata, cut off at random moments by SIGINT, SIGTERM and SIGKILL: what they write is there whole or not at
 * all. And what a person sees meanwhile.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { Random } from "../support/random.js";
import { finished, type Session, THROUGH_DAEMON, UDM, withSession } from "./session.js";

const ROUNDS = process.env.UDM_TEST_LONG === undefined ? 3 : 60;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGKILL"] as const;
/** Shares of the time the whole takes: from the end of node's start to a little behind the end. */
const EARLIEST = 0.3;
const LATEST = 1.1;
const MAPPINGS = 80_000;
const DATA_BLOCKS = 2 * MAPPINGS;

/** Two devices with every other block mapped, so that nothing is a long run. */
function makeXml(time: number): string {
  const lines = [
    `<superblock uuid="" time="${time}" transaction="${time}" flags="0" version="2" data_block_size="128" nr_data_blocks="${DATA_BLOCKS}">`,
  ];
  for (const id of [1, 2]) {
    lines.push(
      `  <device dev_id="${id}" mapped_blocks="${MAPPINGS / 2}" transaction="0" creation_time="0" snap_time="0">`,
    );
    for (let block = 0; block < MAPPINGS / 2; block++) {
      lines.push(
        `    <single_mapping origin_block="${2 * block}" data_block="${2 * (block + (id - 1) * (MAPPINGS / 2))}" time="0"/>`,
      );
    }
    lines.push("  </device>");
  }
  return `${[...lines, "</superblock>"].join("\n")}\n`;
}

interface Cut {
  readonly status: number | null;
  readonly stderr: string;
  readonly signal: (typeof SIGNALS)[number];
}

/** Runs a line and cuts it off somewhere between its begin and its end, which was measured. */
async function cutOff(session: Session, random: Random, line: string, wholeMs: number): Promise<Cut> {
  const signal = random.pick(SIGNALS);
  const child = session.start(process.execPath, [UDM, ...line.split(" ")]);
  child.stdin!.end();
  const ended = finished(child);
  await sleep(wholeMs * (EARLIEST + (random.between(0, 1000) / 1000) * (LATEST - EARLIEST)));
  child.kill(signal);
  const { status, stderr } = await ended;
  // Before its handlers are there a signal ends node at once.
  expect([0, 130, null], `${line}: ${stderr}`).toContain(status);
  if (status === 130) expect(stderr).toBe("");
  return { status, stderr, signal };
}

async function timeOf(run: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await run();
  return performance.now() - begun;
}

test.skipIf(THROUGH_DAEMON)("dump, restore and check that are cut off leave all of it, or what was there", async () => {
  await withSession(async (session) => {
    const random = new Random(20_261_121);
    const [first, second] = [makeXml(1), makeXml(2)];
    writeFileSync(session.path("first.xml"), first);
    writeFileSync(session.path("second.xml"), second);
    for (const name of ["first", "second", "blank"]) writeFileSync(session.path(`${name}.img`), Buffer.alloc(2 ** 23));
    const restoreMs = await timeOf(() => session.ok("metadata restore -q -i first.xml -o first.img"));
    await session.ok("metadata restore -q -i second.xml -o second.img");
    const dumpMs = await timeOf(() => session.ok("metadata dump first.img -o whole.xml"));
    expect(readFileSync(session.path("whole.xml"), "utf8")).toBe(first);

    for (let round = 0; round < ROUNDS; round++) {
      // A dump over another one.
      const hasBefore = random.oneIn(2);
      spawnSync("rm", ["-f", session.path("out.xml")]);
      if (hasBefore) writeFileSync(session.path("out.xml"), "before");
      const dumped = await cutOff(session, random, "metadata dump second.img -o out.xml", dumpMs);
      const path = session.path("out.xml");
      const found = existsSync(path) ? readFileSync(path, "utf8") : undefined;
      if (dumped.status === 0) expect(found === second).toBe(true);
      else expect([hasBefore ? "before" : undefined, second]).toContain(found);
      const parts = readdirSync(session.folder).filter((name) => name.endsWith(".part"));
      if (dumped.status !== null) expect(parts).toEqual([]);
      for (const name of parts) spawnSync("rm", ["-f", session.path(name)]);

      // A restore over an older pool, or over nothing.
      copyFileSync(session.path(random.oneIn(2) ? "first.img" : "blank.img"), session.path("out.img"));
      const before = readFileSync(session.path("out.img"));
      const restored = await cutOff(session, random, "metadata restore -q --yes -i second.xml -o out.img", restoreMs);
      const check = await session.udm("metadata check -q out.img");
      if (check.status === 0) {
        const dump = await session.ok("metadata dump out.img");
        expect([first, second].includes(dump)).toBe(true);
        if (restored.status === 0) expect(dump === second).toBe(true);
        // What it was before is there to the byte.
        if (dump === first) expect(readFileSync(session.path("out.img")).equals(before)).toBe(true);
      } else {
        expect(restored.status).not.toBe(0);
        // It is no pool: nobody takes half of one for a whole one.
        expect(check.status).toBe(3);
        expect((await session.udm("metadata dump out.img")).status).toBe(1);
      }
    }
  });
});

test.skipIf(THROUGH_DAEMON)("leaks are freed all at once, whenever that is cut off", async () => {
  await withSession(async (session) => {
    const random = new Random(4);
    writeFileSync(session.path("a.xml"), makeXml(1));
    writeFileSync(session.path("leaky.img"), Buffer.alloc(2 ** 23));
    await session.ok("metadata restore -q -i a.xml -o leaky.img");
    await session.ok("metadata damage -q --case data-leaks leaky.img --yes");
    expect((await session.udm("metadata check -q leaky.img")).status).toBe(4);
    copyFileSync(session.path("leaky.img"), session.path("b.img"));
    const wholeMs = await timeOf(() => session.ok("metadata check -q --auto-repair b.img"));
    for (let round = 0; round < ROUNDS; round++) {
      copyFileSync(session.path("leaky.img"), session.path("b.img"));
      const cut = await cutOff(session, random, "metadata check -q --auto-repair b.img", wholeMs);
      const { status } = await session.udm("metadata check -q b.img");
      expect(cut.status === 0 ? [0] : [0, 4]).toContain(status);
    }
  });
});

const hasScript = spawnSync("script", ["--version"]).error === undefined || process.env.CI === "true";

test.runIf(hasScript)(
  "what takes longer than a moment shows how far it is, on a terminal only, and not with -q",
  async () => {
    await withSession(async (session) => {
      writeFileSync(session.path("a.xml"), makeXml(1));
      writeFileSync(session.path("out.img"), Buffer.alloc(2 ** 23));
      // The input takes its time.
      const slowly =
        "(head -c 1500000 a.xml; sleep 1.2; tail -c +1500001 a.xml | head -c 1500000; sleep 0.3; tail -c +3000001 a.xml)";
      const restore = (words: string) => `${slowly} | udm metadata restore -y ${words} -i - -o out.img`;
      const onTerminal = (line: string) => session.run("script", ["-qec", `bash -c '${line}'`, "/dev/null"]);
      const seen = await onTerminal(restore(""));
      expect(seen.stdout).toContain("restored 2 devices, 80000 mappings");
      // How much there is cannot be told of a pipe.
      expect(seen.stdout).toMatch(/\rrestore out\.img \d+(\.\d+)?M \d+(\.\d+)?[KM]\/s/);
      // It is taken off the screen.
      expect(seen.stdout).toContain("\r\u001b[Krestored 2 devices");
      expect((await onTerminal(restore("-q"))).stdout).toBe("");
      const elsewhere = await session.bash(restore(""));
      expect(elsewhere.stderr).toBe("");
      expect(elsewhere.stdout).toMatch(/^restored 2 devices/);
    });
  },
);
