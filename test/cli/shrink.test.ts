/** `udm metadata shrink` as a process that gets a signal, and the program thin_shrink. */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { fillPattern } from "../support/pool-script.js";
import { finished, type Session, UDM, withSession } from "./session.js";

const MIB = 2 ** 20;
const THIN_SHRINK = fileURLToPath(new URL("../../bin/compat/thin_shrink", import.meta.url));

/** 24 MiB of pool, of which device b has the second third. */
async function makePool(session: Session): Promise<string> {
  await session.ok("pool create p --metadata m.img --metadata-size 4m --data d.img --data-size 24m --block-size 64k");
  const bytes = new Uint8Array(8 * MIB);
  for (const name of ["a", "b"]) {
    await session.ok(`thin create p ${name} --size 8m`);
    fillPattern(bytes, 0, name.length);
    expect((await session.udm(["thin", "write", name], { input: bytes })).status).toBe(0);
  }
  await session.ok("thin delete a --yes");
  return sumOf(session);
}

async function sumOf(session: Session): Promise<string> {
  const ran = await session.bash("udm thin read b | sha256sum");
  expect(ran.stderr).toBe("");
  return ran.stdout;
}

test("wherever a signal finds it the pool is whole, and the same command ends the work", async () => {
  await withSession(async (session) => {
    const sum = await makePool(session);
    const words = ["metadata", "shrink", "p", "--size", "9m", "--yes"];
    for (const delayMs of [150, 300]) {
      const child = session.start(process.execPath, [UDM, ...words]);
      const ended = finished(child);
      await once(child, "spawn");
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      child.kill("SIGINT");
      // Before it listens a signal ends it as any program; behind the last commit it is done.
      expect([0, 130, null]).toContain((await ended).status);
      expect(await sumOf(session)).toBe(sum);
    }
    await session.ok(words);
    expect(await sumOf(session)).toBe(sum);
    expect(await session.ok("metadata check p")).toMatch(/data: 128 of 144 blocks used\nclean\n$/);
  });
});

test("thin_shrink says nothing when it goes well, and fails with 1 and a line", async () => {
  await withSession(async (session) => {
    await makePool(session);
    await session.ok("thin deactivate b");
    await session.ok("pool remove p");
    await session.ok("metadata dump m.img -o in.xml");
    const run = (words: string) => session.run(THIN_SHRINK, words.split(" "));
    expect(await run("-i in.xml -o out.xml --data d.img --nr-blocks 130")).toEqual({
      status: 0,
      stdout: "",
      stderr: "",
    });
    expect(readFileSync(session.path("out.xml"), "utf8")).toContain('nr_data_blocks="130"');
    expect(await run("-i in.xml -o out.xml --data d.img --nr-blocks 100")).toEqual({
      status: 1,
      stdout: "",
      stderr: "in.xml: 128 data blocks are in use, 100 would be left (128 to move, 100 free below)\n",
    });
  });
});
