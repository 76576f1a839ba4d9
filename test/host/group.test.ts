/** Several operations as one change: they see each other, nobody else sees them, and they become true together. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { digest, MIB, makeHost, makePool, pattern, type TestHost, write } from "./make-host.js";

async function prepared(): Promise<TestHost> {
  const host = await makeHost({ lockTimeoutMs: 200 });
  await makePool(host);
  await host.createThin({ pool: "pool", name: "a", sizeBytes: 4 * MIB });
  await write(host, "a", pattern(MIB, 1));
  return host;
}

const bytesOf = (host: TestHost) =>
  ["pool-meta.img", "state/state.json"].map((name) => readFileSync(host.path(name)).toString("latin1"));
const namesOf = async (host: TestHost) => (await host.listThins()).map(({ name }) => name);

test("operations of a group see each other and write nothing before the commit", async () => {
  const host = await prepared();
  const before = bytesOf(host);
  await host.begin("test");
  await host.snapThin({ origin: "a", name: "s1" });
  await host.snapThin({ origin: "s1", name: "s2" });
  await host.deleteThin("s1");
  await host.renameThin("s2", "s3");
  expect(await namesOf(host)).toEqual(["a", "s3"]);
  expect((await host.listDevices()).map(({ name }) => name)).toEqual(["a", "pool", "s3"]);
  expect((await host.deviceInfo("s3")).sizeBytes).toBe(4 * MIB);
  expect(bytesOf(host)[1]).toBe(before[1]);
  expect(bytesOf(host)[0]!.slice(0, 4096)).toBe(before[0]!.slice(0, 4096));
  await host.commit();
  await host.close();
  const again = await makeHost({ folder: host.folder });
  expect(await namesOf(again)).toEqual(["a", "s3"]);
  expect(await digest(again, "s3")).toBe(await digest(again, "a"));
});

test("an undone group never was, and the next one begins from there", async () => {
  const host = await prepared();
  const before = bytesOf(host);
  await host.begin("test");
  await host.snapThin({ origin: "a", name: "s1" });
  await host.undo();
  expect(bytesOf(host)[1]).toBe(before[1]);
  expect(bytesOf(host)[0]!.slice(0, 4096)).toBe(before[0]!.slice(0, 4096));
  await host.begin("test");
  await host.snapThin({ origin: "a", name: "s2" });
  await host.commit();
  expect(await namesOf(host)).toEqual(["a", "s2"]);
});

test("a group in which an operation failed cannot be committed, only undone", async () => {
  const host = await prepared();
  await host.begin("test");
  await host.snapThin({ origin: "a", name: "s1" });
  await expect(host.snapThin({ origin: "nope", name: "s2" })).rejects.toMatchObject({ code: "ENXIO" });
  await expect(host.commit()).rejects.toMatchObject({ code: "EBUG" });
  expect(await namesOf(host)).toEqual(["a"]);
});

test("two pools are not one commit: nothing of either happens", async () => {
  const host = await prepared();
  await makePool(host, "other");
  await host.begin("test");
  await host.snapThin({ origin: "a", name: "s1" });
  await host.createThin({ pool: "other", name: "b", sizeBytes: MIB });
  await expect(host.commit()).rejects.toMatchObject({ code: "EINVAL" });
  expect(await namesOf(host)).toEqual(["a"]);
});

test("a pool with held changes cannot be taken away", async () => {
  const host = await prepared();
  await host.begin("test");
  await host.createThin({ pool: "pool", name: "b", sizeBytes: MIB });
  await host.deleteThin("b");
  await host.deactivateThin("a");
  await expect(host.removePool("pool")).rejects.toMatchObject({ code: "EBUSY" });
  await host.undo();
  expect(await namesOf(host)).toEqual(["a"]);
});

test("others wait for a group, not for what is kept open after it", async () => {
  const host = await prepared();
  const other = await makeHost({ folder: host.folder, lockTimeoutMs: 100 });
  await host.begin("test");
  await host.snapThin({ origin: "a", name: "s1" });
  await expect(other.snapThin({ origin: "a", name: "s2" })).rejects.toMatchObject({ code: "EBUSY" });
  await host.commit();
  const patient = await makeHost({ folder: host.folder });
  await patient.snapThin({ origin: "a", name: "s2" });
  await host.begin("test");
  await host.snapThin({ origin: "s2", name: "s3" });
  await host.commit();
  expect(await namesOf(patient)).toEqual(["a", "s1", "s2", "s3"]);
});

test("data written between groups is there, and a group after it keeps it", async () => {
  const host = await prepared();
  for (let round = 0; round < 5; round++) {
    await host.begin("test");
    await host.snapThin({ origin: "a", name: `s${round}` });
    await host.commit();
    await write(host, "a", pattern(MIB, round + 2), round * 65536);
  }
  const digests = new Set(await Promise.all([0, 1, 2, 3, 4].map((round) => digest(host, `s${round}`))));
  expect(digests.size).toBe(5);
});
