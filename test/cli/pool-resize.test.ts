/** Growing pools: in one step, the long way, and what is said about what cannot be. */
import { readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { HAS_THIN_TOOLS, thinCheck } from "../support/thin-tools.js";
import { type Session, THROUGH_DAEMON, withSession } from "./session.js";

const GIB = 2 ** 30;

async function makePool(session: Session, name = "pool", files = ["meta.img", "data.img"]): Promise<void> {
  const [meta, data] = files;
  await session.ok(
    `pool create ${name} --data ${data} --metadata ${meta} --data-size 1g --metadata-size 8m --low-water 819`,
  );
}

test("one command gives what truncate, loop resize, suspend, load and resume give", async () => {
  await withSession(async (session) => {
    await makePool(session);
    await makePool(session, "long", ["meta2.img", "data2.img"]);
    await session.ok("thin create pool a --size 1g");
    await session.ok("thin create long b --size 1g");

    const plan = (await session.ok("pool resize pool 8GB --dry-run")).trimEnd().split("\n");
    expect(plan[0]).toBe(`truncate -s ${8 * GIB} ${session.path("data.img")}`);
    expect(statSync(session.path("data.img")).size).toBe(GIB);
    await session.ok("pool resize pool 8GB");

    truncateSync(session.path("data2.img"), 8 * GIB);
    await session.ok("loop resize loop3");
    await session.ok("table suspend long");
    await session.ok(["table", "load", "long", "--table", "0 16777216 thin-pool 7:2 7:3 128 819 1 error_if_no_space"]);
    await session.ok("table resume long");

    const tables = await Promise.all(["pool", "long"].map((name) => session.ok(`table show ${name}`)));
    expect(tables[0]).toMatch(/^0 16777216 thin-pool 7:0 7:1 128 /);
    expect(tables[1]!.replace("7:2 7:3", "7:0 7:1")).toBe(tables[0]);
    const lines = await Promise.all(["pool", "long"].map((name) => session.ok(`pool status ${name} --raw`)));
    expect(lines[0]).toBe(lines[1]);
    expect(lines[0]).toContain("/131072 ");
    expect(statSync(session.path("data.img")).size).toBe(8 * GIB);
    if (HAS_THIN_TOOLS && !THROUGH_DAEMON) {
      const [ours, theirs] = ["meta.img", "meta2.img"].map((name) => readFileSync(session.path(name)));
      expect(thinCheck(ours!)).toBeUndefined();
      expect(thinCheck(theirs!)).toBeUndefined();
    }
  });
});

test("sizes by what is added, in percent, and of the metadata; a smaller one is refused", async () => {
  await withSession(async (session) => {
    await makePool(session);
    await session.ok("pool resize pool +1g");
    await session.ok("pool resize pool +50%");
    await session.ok("pool resize pool --metadata-size +8m");
    expect(await session.ok("table show pool")).toMatch(/^0 6291456 thin-pool /);
    expect(await session.ok("pool status pool --raw")).toMatch(/^0 6291456 thin-pool 0 \d+\/4096 0\/49152 /);
    const ran = await session.udm("pool resize pool 1g");
    expect(ran).toMatchObject({ status: 1, stdout: "" });
    expect(ran.stderr).toMatch(
      /^udm: data of 'pool' has 3221225472 bytes and would need to shrink to 1073741824\nhint: /,
    );
  });
});

test("a pool of linear parts grows into what is free on its device, and says what that is", async () => {
  await withSession(async (session) => {
    makeSparse(session.path("disk.img"), GIB);
    await session.ok("pool create pool --device disk.img --thinp-percent 50 --thinp-metapercent 1");
    await session.ok("thin create pool a --size 100m");
    await session.ok("thin write a", { input: Buffer.alloc(1_000_000, 5) });
    await session.ok("pool resize pool +256m");
    await session.ok("pool resize pool --metadata-size +4m");
    await session.ok("pool resize pool +16m");
    expect(await session.ok("pool check pool")).toMatch(/^POOL OK/);
    const ran = await session.udm("pool resize pool +1g");
    expect(ran.status).toBe(1);
    expect(ran.stderr).toMatch(/^udm: device 7:0 has \d+ bytes left, 1073741824 are needed\nhint: /);
    expect(
      (await session.run("bash", ["-c", "udm thin read a --length 1000000 | tr -d '\\005' | wc -c"])).stdout.trim(),
    ).toBe("0");
  });
});

test("a file larger than its file system is allowed, and said; one that cannot be is refused", async () => {
  await withSession(async (session) => {
    await makePool(session);
    await session.ok("pool resize pool --metadata-size 128m");
    const ran = await session.udm("pool resize pool 15t");
    expect(ran.status).toBe(0);
    expect(ran.stderr).toMatch(
      /^udm: overcommitted: .*data\.img may come to need 15T more, its file system has [\d.]+\w free\n$/,
    );
    expect(await session.ok("pool resize pool +64k --quiet")).toBe("");
    const before = statSync(session.path("data.img")).size;
    const refused = await session.udm("pool resize pool 1000t");
    expect(refused.status).toBe(1);
    expect(refused.stderr).toMatch(/^udm: .*\n(hint: .*\n)?$/);
    expect(statSync(session.path("data.img")).size).toBe(before);
    await session.ok("thin create pool a --size 1g");
  });
});

function makeSparse(path: string, bytes: number): void {
  writeFileSync(path, "");
  truncateSync(path, bytes);
}
