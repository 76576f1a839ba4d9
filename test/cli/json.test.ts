/** The shapes of --json: one document on standard output that fits its schema, sizes in bytes, the same keys whatever the state. */
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { afterAll, describe, expect, test } from "vitest";
import { COMMANDS } from "../../src/commands/index.js";
import { DOCUMENTS, NOUNS } from "../../src/commands/schema/documents.js";
import { schemaOf } from "../../src/commands/schema/json-schema.js";
import { runMain } from "../commands/run-main.js";
import { faultsOf } from "../support/json-schema.js";
import { finished, type RunOptions, type Session, THROUGH_DAEMON, withSession } from "./session.js";

/** Print bytes: they refuse --json. */
const RAW = ["thin read", "device read"];
/** Families whose documents are described by schemas. */
const FAMILIES = [undefined, "loop", "pool", "thin", "table", "device", "metadata", "daemon"];
/** What needs root; test/cli/attach.test.ts holds it against its schemas. And what draws on a terminal. */
const ELSEWHERE = ["attach", "detach", "mount", "umount", "explore"];

const seen = new Set<string>();

/** Runs a command with --json. @returns its document without the version, which fits the schema of its noun */
async function json(
  session: Session,
  line: string | readonly string[],
  options: RunOptions & { readonly noun?: string } = {},
): Promise<Record<string, unknown>> {
  const words = typeof line === "string" ? line.split(" ") : [...line];
  const document: unknown = JSON.parse(await session.ok([...words, "--json"], options));
  const { title, noun } = nounOf(words, options.noun);
  expect(faultsOf(schemaOf(noun), document), words.join(" ")).toEqual([]);
  seen.add(title);
  const { version, ...rest } = document as Record<string, unknown>;
  expect(version, words.join(" ")).toBe(DOCUMENTS[noun].hasVersion === false ? undefined : 1);
  if (!words.includes("-o")) checkAllKeys(noun, rest);
  return rest;
}

function nounOf(words: readonly string[], wanted: string | undefined) {
  const [first = "", second = ""] = words;
  const entry = COMMANDS.find(
    ({ family, name }) => (family === first && name === second) || (family === undefined && name === first),
  );
  if (entry === undefined) throw new Error(`no command ${words.join(" ")}`);
  const title = entry.family === undefined ? entry.name : `${entry.family} ${entry.name}`;
  const noun = NOUNS.find((each) =>
    wanted === undefined ? DOCUMENTS[each].commands.includes(title) : each === wanted,
  );
  if (noun === undefined) throw new Error(`no document of ${title}`);
  return { title, noun };
}

/** Rows of a report have all keys when no columns were chosen. */
function checkAllKeys(noun: (typeof NOUNS)[number], document: Record<string, unknown>): void {
  if (noun === "pools" || noun === "runs") return;
  const [key, rows] = Object.entries(document)[0] ?? [];
  const field = key === undefined ? undefined : DOCUMENTS[noun].shape.fields[key];
  if (field?.kind !== "list" || field.of.kind !== "record" || field.of.isSelection !== true) return;
  for (const row of rows as object[]) expect(Object.keys(row)).toEqual(Object.keys(field.of.fields));
}

test("every report has its shape", async () => {
  await withSession(async (session) => {
    expect(await json(session, "loop attach meta.img --size 16m")).toMatchObject({
      loop: { number: 0, dev: "7:0", sizeBytes: 16 * 2 ** 20, readOnly: false, usedBy: [] },
    });
    await session.ok("loop attach data.img --size 1g");
    const table = "0 2097152 thin-pool 7:0 7:1 128 0";
    expect(await json(session, ["pool", "create", "pool", "--table", table])).toEqual({
      pool: { name: "pool", formatted: true, thinIds: [] },
    });
    expect(await json(session, "thin create pool vol --size 64m")).toEqual({ ok: true });
    await session.ok("thin write vol", { input: Buffer.alloc(200_000, 7) });
    await session.ok("thin snap vol snap");
    await session.ok("thin write snap --offset 64k", { input: Buffer.alloc(65536, 8) });

    expect(await json(session, "pool status")).toMatchObject({
      pools: [
        {
          name: "pool",
          state: "ACTIVE",
          mode: "write",
          size: 2 ** 30,
          used: 5 * 65536,
          metadataSize: 16 * 2 ** 20,
          thinCount: 2,
          activeCount: 2,
          blockSize: 65536,
          heldRoot: null,
          needsCheck: false,
          features: [],
          dataDevice: "7:1",
          metadataDevice: "7:0",
          raw: expect.stringMatching(/^0 2097152 thin-pool 0 \d+\/4096 5\/16384 - rw /),
        },
      ],
    });
    expect(await json(session, "pool list")).toEqual({ pools: [{ name: "pool", state: "ACTIVE" }] });
    expect(await json(session, "pool check pool")).toMatchObject({ check: { pool: "pool", verdict: "OK", status: 0 } });
    expect(await json(session, "pool map pool")).toMatchObject({
      map: {
        totalBlocks: 16384,
        blockBytes: 65536,
        runs: expect.arrayContaining([expect.objectContaining({ mappings: 2 })]),
      },
    });
    const { thins } = await json(session, "thin list");
    expect(thins).toMatchObject([
      {
        name: "vol",
        pool: "pool",
        id: 0,
        size: 64 * 2 ** 20,
        mapped: 4 * 65536,
        exclusive: 65536,
        shared: 3 * 65536,
        origin: null,
        active: true,
      },
      {
        name: "snap",
        pool: "pool",
        id: 1,
        mapped: 4 * 65536,
        exclusive: 65536,
        shared: 3 * 65536,
        origin: "vol",
        active: true,
      },
    ]);
    expect(await json(session, "thin usage vol snap")).toEqual({
      usage: [{ mapped: 5 * 65536, exclusive: 5 * 65536, shared: 0, freedIfDeleted: 5 * 65536 }],
    });
    expect(await json(session, "thin map vol")).toEqual({
      runs: [{ virtualBlock: 0, dataBlock: 0, count: 4, time: 0 }],
    });
    expect(await json(session, "thin map snap 0x1")).toMatchObject({
      runs: [{ virtualBlock: 1, dataBlock: 4, count: 1, time: 1, sharers: ["snap@0x1"] }],
    });
    expect(await json(session, "thin diff vol snap")).toEqual({
      extents: [{ offset: 65536, length: 65536, kind: "differ" }],
    });
    expect(await json(session, "table show pool")).toEqual({
      targets: [
        { device: "pool", startSectors: 0, lengthSectors: 2097152, type: "thin-pool", params: "7:0 7:1 128 0 0 " },
      ],
    });
    expect(await json(session, "device list")).toMatchObject({
      devices: [
        { name: "pool", device: "253:0", openCount: 2, segments: 1, readOnly: false, deps: ["7:1", "7:0"] },
        { name: "snap", device: "253:2", deps: ["253:0"] },
        { name: "vol", device: "253:1", deps: ["253:0"] },
      ],
    });
    expect(await json(session, "device deps vol")).toEqual({ deps: ["253:0"] });
    expect(await json(session, "loop list 7:1")).toMatchObject({
      loops: [{ name: "loop1", device: "7:1", size: 2 ** 30, backFile: session.path("data.img"), usedBy: ["pool"] }],
    });
    expect(await json(session, "lsblk loop1")).toMatchObject({
      blockdevices: [
        { name: "loop1", size: 2 ** 30, children: [{ name: "pool", children: [{ name: "vol" }, { name: "snap" }] }] },
      ],
    });
    expect(await json(session, "pool resize pool +1g")).toEqual({
      resized: {
        dataBytesBefore: 2 ** 30,
        dataBytesAfter: 2 ** 31,
        metadataBytesBefore: 16 * 2 ** 20,
        metadataBytesAfter: 16 * 2 ** 20,
        overcommitted: [],
      },
    });
    expect(await json(session, "thin trim vol --offset 0 --length 64k -y")).toEqual({
      trimmed: { trimmedBytes: 65536 },
    });
    expect(await json(session, "thin export vol out.img --verify")).toMatchObject({
      exported: { bytes: 64 * 2 ** 20, verified: true },
    });
    expect(await json(session, "table save")).toMatchObject({ tables: expect.stringMatching(/^pool,,0,rw,/) });
  });
});

test("every change has its document", async () => {
  await withSession(async (session) => {
    await json(session, "loop attach meta.img --size 16m");
    await json(session, "loop attach data.img --size 1g");
    await json(session, "loop attach spare.img --size 1m");
    await json(session, "loop resize 7:2 2m");
    await json(session, "loop detach 7:2");
    await json(session, ["pool", "create", "pool", "--table", "0 2097152 thin-pool 7:0 7:1 128 0"]);
    await json(session, "pool set pool --low-water 10%");
    await json(session, "thin create pool vol --size 1m");
    expect(await json(session, "thin write vol", { input: "x".repeat(1000) })).toEqual({ written: 1000 });
    await session.bash("head -c 300000 /dev/urandom > image");
    expect(await json(session, "thin import vol image")).toEqual({
      imported: { bytes: 300000, dataBytes: 300000, verified: false },
    });
    await json(session, "thin snap vol snap");
    await json(session, "thin rename snap other");
    await json(session, "thin resize other +1m");
    await json(session, "thin deactivate other");
    await json(session, "thin activate pool:1 other");
    await json(session, "thin rollback vol other -y");
    await json(session, "thin delete other -y");
    await json(session, "pool message pool create_thin 7");
    expect(await json(session, "device message pool 0 delete 7")).toEqual({ answer: null });
    await json(session, ["table", "load", "z", "--table", "0 8 zero"]);
    await json(session, "table resume z");
    await json(session, "table suspend z");
    await json(session, ["table", "load", "z", "--table", "0 16 zero"]);
    await json(session, "table clear z");
    await json(session, "table resume z");
    await json(session, "table status pool");
    await json(session, "device rename z y");
    await json(session, "device info y");
    await json(session, "device wait vol 99");
    await json(session, "device write vol", { input: "y" });
    await json(session, "device import vol image");
    await json(session, "device export vol out");
    await json(session, "device trim vol -y");
    await json(session, "device remove y");
    expect(await json(session, "table restore", { input: "y,,,rw,0 8 zero" })).toEqual({ restored: ["y"] });
    await json(session, "thin delete vol -y");
    await json(session, "pool remove pool");
  });
});

/** Documents that stand one on a line. */
function checkLines(noun: (typeof NOUNS)[number], title: string, text: string): readonly Record<string, unknown>[] {
  const lines = text.trimEnd().split("\n");
  const documents = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  for (const each of documents) expect(faultsOf(schemaOf(noun), each)).toEqual([]);
  seen.add(title);
  return documents;
}

test("so have the tools for metadata", async () => {
  await withSession(async (session) => {
    await session.ok("pool create pool --data d --metadata m --data-size 64m --metadata-size 8m");
    await session.ok("thin create pool a --size 16m");
    await session.ok("thin write a", { input: Buffer.alloc(200_000, 7) });
    await session.ok("thin snap a b");
    await session.ok("thin write b --offset 64k", { input: Buffer.alloc(65536, 8) });
    expect(await json(session, "metadata check pool", { noun: "metadataCheck" })).toMatchObject({
      metadataCheck: { source: "pool", pool: "pool", verdict: "clean", devices: 2, mappings: 8, findings: [] },
    });
    await json(session, "metadata check m --super-block-only", { noun: "metadataCheck" });
    const image = readFileSync(session.path("m"));
    // The root of the tree of devices.
    image[Number(image.readBigUInt64LE(320)) * 4096 + 100]! ^= 1;
    writeFileSync(session.path("broken"), image);
    const broken = JSON.parse((await session.udm("metadata check broken --json")).stdout);
    expect(faultsOf(schemaOf("metadataCheck"), broken)).toEqual([]);
    expect(broken.metadataCheck).toMatchObject({ verdict: "damaged", pool: null });
    expect(await json(session, "metadata ls pool")).toMatchObject({
      metadataDevices: [
        { id: 0, mappedBytes: 4 * 65536, exclusiveBytes: 65536, sharedBytes: 3 * 65536 },
        { id: 1, mappedBytes: 4 * 65536, exclusiveBytes: 65536, sharedBytes: 3 * 65536 },
      ],
    });
    expect(await json(session, "metadata delta --thin1 0 --thin2 1 pool")).toMatchObject({
      delta: { left: 0, right: 1, dataBlockSectors: 128, runs: [{}, { kind: "different", virtualBlock: 1 }, {}] },
    });
    expect(await json(session, "metadata rmap --region 0..2 pool")).toEqual({
      reverse: [
        { dataBlock: 0, thinId: 0, virtualBlock: 0, count: 2 },
        { dataBlock: 0, thinId: 1, virtualBlock: 0, count: 1 },
      ],
    });
    await json(session, "metadata stat pool");
    await json(session, "metadata size -b 64k -s 1t -m 10");
    expect(await json(session, "metadata size pool")).toMatchObject({
      metadataSize: { hasBytes: 8 * 2 ** 20, poolBytes: 64 * 2 ** 20, isEnough: true },
    });
    const dump = await session.ok("metadata dump pool --json");
    expect(checkLines("dumpLine", "metadata dump", dump)[1]).toMatchObject({ device: { id: 0, mappedBlocks: 4 } });
    await session.ok("metadata dump pool -o xml");
    await session.bash("truncate -s 8m copy");
    expect(await json(session, "metadata restore -i xml -o copy --yes")).toMatchObject({
      metadataRestored: { target: "copy", devices: 2, mappings: 8, dataBlockSectors: 128, nrDataBlocks: 1024 },
    });
    expect(await json(session, "metadata pack -i pool -o m.pack")).toMatchObject({ packed: { damaged: 0 } });
    await json(session, "metadata unpack -i m.pack -o unpacked --yes");
    await json(session, "metadata repair -i copy --dry-run", { noun: "repair" });
    await json(session, "metadata damage --list", { noun: "cases" });
    expect(await json(session, "metadata trim --metadata-dev pool --data-dev pool --yes")).toHaveProperty("discarded");
    await json(session, "metadata shrink pool --size 32m --yes");
    await json(session, "metadata restore -i xml -o copy --dry-run", { noun: "plan" });
  });
});

test.skipIf(THROUGH_DAEMON)("so have the daemon and what it does", async () => {
  await withSession(async (session) => {
    await session.ok("pool create pool --data d --metadata m --data-size 64m --metadata-size 8m");
    await session.ok("thin create pool a --size 128m");
    const none = await session.udm("daemon status --json");
    expect(faultsOf(schemaOf("daemon"), JSON.parse(none.stdout))).toEqual([]);
    expect(await json(session, "daemon start")).toMatchObject({ daemon: { endsWhenIdle: false, services: [] } });
    const serve = session.start("udm", ["serve", "a", "--json"]);
    const ended = finished(serve);
    const [first] = (await once(serve.stdout!, "data")) as [Buffer];
    expect(faultsOf(schemaOf("export"), JSON.parse(first.toString()))).toEqual([]);
    seen.add("serve");
    expect(await json(session, "daemon status")).toMatchObject({
      daemon: { services: [{ kind: "nbd", lasts: "connection" }], openPools: ["pool"] },
    });
    serve.kill("SIGINT");
    expect((await ended).status).toBe(0);
    await session.ok("pool set pool --low-water 100%");
    await session.ok("thin write a", { input: Buffer.alloc(200_000, 7) });
    expect(await json(session, "monitor --once", { noun: "watched" })).toMatchObject({
      pools: [{ name: "pool", mode: "write", dataBytes: 64 * 2 ** 20 }],
      failed: [],
    });
    await session.ok("pool resize pool +64m");
    const events = checkLines("poolEvent", "events", await session.ok("events --json"));
    expect(events.map(({ event }) => event)).toContain("resized");
    expect(await json(session, "daemon stop")).toMatchObject({ ended: expect.any(Number) });
  });
});

test("so have the commands of one word", async () => {
  await withSession(async (session) => {
    await session.ok("pool create pool --data d --metadata m --data-size 64m --metadata-size 16m");
    expect(await json(session, "status")).toMatchObject({ status: { pools: [{ name: "pool", mode: "write" }] } });
    const doctor = JSON.parse((await session.udm("doctor --json")).stdout);
    expect(faultsOf(schemaOf("doctor"), doctor)).toEqual([]);
    seen.add("doctor");
    await json(session, "completion bash");
    expect(await json(session, "batch", { input: "thin create pool a --size 1m\nthin list\n" })).toMatchObject({
      lines: [{ result: { ok: true } }, { result: { thins: [{ name: "a" }] } }],
      done: 2,
      failed: 0,
    });
    expect(await json(session, "shell", { input: "pool list\nexit\n" })).toMatchObject({ done: 1 });
    await json(session, "schema");
    expect(await json(session, "pool set pool --low-water 1 --dry-run", { noun: "plan" })).toMatchObject({
      plan: expect.arrayContaining(["dmsetup resume pool"]),
    });
    expect(await json(session, "pool status -o NAME,SIZE")).toEqual({ pools: [{ name: "pool", size: 64 * 2 ** 20 }] });
  });
});

afterAll(() => {
  const titles = COMMANDS.filter(({ family, name }) => FAMILIES.includes(family) && !ELSEWHERE.includes(name)).map(
    ({ family, name }) => (family === undefined ? name : `${family} ${name}`),
  );
  const daemons = ["daemon start", "daemon stop", "daemon status", "serve", "monitor", "events"];
  const left = titles.filter((title) => !seen.has(title) && !(THROUGH_DAEMON && daemons.includes(title)));
  expect(left).toEqual(RAW);
});

describe("with --json a failure", () => {
  const LINES = [
    "loop detach 7:9",
    "loop resize 7:9",
    "loop list 7:9",
    "pool status nope",
    "pool resize nope +1g",
    "pool set nope --low-water 1",
    "pool message nope delete 1",
    "pool map nope",
    "pool remove nope",
    "thin create nope a --size 1m",
    "thin delete nope -y",
    "thin usage nope",
    "thin map nope",
    "thin diff nope nope2",
    "thin read nope",
    "thin export nope -",
    "thin import nope file",
    "table show nope",
    "table resume nope",
    "device info nope",
    "device deps nope",
    "device rename nope other",
    "device wait nope",
    "thin list -o NOPE",
    "thin list --sort NOPE",
    "thin create pool a --size 1m -o NAME",
    "thin list --units x",
    "batch nofile",
    "completion tcsh",
    "metadata check nope",
    "metadata dump nope",
    "metadata ls nope",
    "metadata delta nope",
    "metadata rmap nope",
    "metadata size nope",
    "metadata restore -i nope -o nope",
    "schema nope",
    "nonsense",
  ];

  test("leaves standard output empty and tells one document on standard error", async () => {
    await withSession(async (session) => {
      for (const line of LINES) {
        const ran = await runMain(`${line} --json`.split(" "), { environment: session.environment });
        expect(ran.status, line).toBeGreaterThan(0);
        expect(ran.stdout, line).toBe("");
        expect(faultsOf(schemaOf("error"), JSON.parse(ran.stderr)), line).toEqual([]);
      }
      const check = JSON.parse((await session.udm("pool check nope --json")).stdout);
      expect(faultsOf(schemaOf("check"), check)).toEqual([]);
      expect(check).toMatchObject({ check: { verdict: "UNKNOWN", status: 3 } });
    });
  });
});
