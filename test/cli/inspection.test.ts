/** `udm status` and `udm doctor`: one look at everything, and the command that mends what is wrong. */
import { readFileSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { type Session, withSession } from "./session.js";

const WRONG = 3;

async function makePool(session: Session): Promise<void> {
  await session.ok("pool create tank --data data.img --metadata meta.img --data-size 64m --metadata-size 8m");
  await session.ok("thin create tank vol --size 32m");
}

interface Findings {
  readonly doctor: {
    readonly isWell: boolean;
    readonly findings: readonly { readonly subject: string; readonly severity: string }[];
  };
}

async function examine(
  session: Session,
): Promise<{ readonly status: number | null; readonly found: Findings["doctor"] }> {
  const ran = await session.udm("doctor --json");
  return { status: ran.status, found: (JSON.parse(ran.stdout) as Findings).doctor };
}

test("status shows a pool with both bars and fits its width", async () => {
  await withSession(async (session) => {
    await makePool(session);
    const text = await session.ok("status");
    expect(text).toMatch(/^1 pool, 2 mapped devices, 2 loop devices$/m);
    expect(text).toMatch(/^tank {2}ACTIVE {2}write/m);
    expect(text).toMatch(/^ {2}data +\[.+\] +0\.0% {2}0B of 64M$/m);
    expect(text).toMatch(/^ {2}metadata +\[.+\]/m);
    expect(text).toMatch(/nothing needs attention/);
    for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
  });
});

test("status names a suspended device and the command that resumes it", async () => {
  await withSession(async (session) => {
    await makePool(session);
    await session.ok("table suspend vol");
    expect(await session.ok("status")).toMatch(/vol.*suspended[\s\S]*udm table resume vol/);
  });
});

test("a pool that cannot be opened does not hide the others", async () => {
  await withSession(async (session) => {
    await makePool(session);
    await session.ok("pool create other --data d2.img --metadata m2.img --data-size 64m --metadata-size 8m");
    writeFileSync(session.path("m2.img"), Buffer.alloc(8 * 2 ** 20, 0xa5));
    const text = await session.ok("status");
    expect(text).toMatch(/^tank {2}ACTIVE/m);
    expect(text).toMatch(/other/);
  });
});

test("--watch and --json exclude each other", async () => {
  await withSession(async (session) => {
    expect(await session.udm("status --watch --json")).toMatchObject({ status: 2, stdout: "" });
  });
});

test("doctor finds nothing wrong with a healthy pool, and changes nothing", async () => {
  await withSession(async (session) => {
    await makePool(session);
    const before = readFileSync(session.path("meta.img"));
    const { status, found } = await examine(session);
    expect([status, found.isWell]).toEqual([0, true]);
    expect(readFileSync(session.path("meta.img")).equals(before)).toBe(true);
  });
});

test("doctor names a truncated and a missing backing file, and exits 3", async () => {
  await withSession(async (session) => {
    await makePool(session);
    truncateSync(session.path("data.img"), 2 ** 20);
    const cut = await examine(session);
    expect([cut.status, cut.found.isWell]).toEqual([WRONG, false]);
    unlinkSync(session.path("data.img"));
    const gone = await session.udm("doctor");
    expect(gone.status).toBe(WRONG);
    expect(gone.stdout).toMatch(/wrong: .*data\.img/);
  });
});

test("doctor names metadata that is damaged, and a state file that cannot be read", async () => {
  await withSession(async (session) => {
    await makePool(session);
    const image = readFileSync(session.path("meta.img"));
    image[100]! ^= 1;
    writeFileSync(session.path("meta.img"), image);
    expect(await examine(session)).toMatchObject({ status: WRONG, found: { isWell: false } });
    writeFileSync(session.path("state/state.json"), "{");
    expect(await examine(session)).toMatchObject({ status: WRONG, found: { isWell: false } });
  });
});

test("a pool that cannot be read leaves the others their rows, and the report fails", async () => {
  await withSession(async (session) => {
    await makePool(session);
    await session.ok("pool create broken --data b.img --metadata bm.img --data-size 64m --metadata-size 8m");
    await session.ok("thin create broken other --size 32m");
    unlinkSync(session.path("b.img"));
    for (const [words, row] of [
      ["pool status", /^tank +ACTIVE/m],
      ["pool status --raw", /^tank: 0 131072 thin-pool /m],
      ["thin list", /^vol +tank/m],
    ] as const) {
      const ran = await session.udm(words);
      expect(ran.stdout).toMatch(row);
      expect(ran.stdout).not.toMatch(/broken/);
      expect(ran.stderr).toMatch(/^udm: .*b\.img: no such file or directory\nhint: /);
      expect(ran.status).toBe(1);
    }
  });
});
