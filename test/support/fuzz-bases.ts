/** What the fuzz of metadata begins with: pools a kernel wrote, pools thin_restore wrote, pools of our own engine. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeEmptyPool, makeManyDevices, makeUsualPool } from "./damage-base.js";
import { readGoldenRun } from "./golden-images.js";
import type { FuzzBase } from "./metadata-fuzz.js";

const PATH = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;
const KERNEL: readonly (readonly [string, string])[] = [
  ["kernel-random", "after 150 operations"],
  ["kernel-random", "after 400 operations"],
  ["kernel-random", "at the end"],
  ["kernel-trace", "create_snap 2 of 1"],
];

export function fuzzBases(): FuzzBase[] {
  const usual = makeUsualPool();
  const kernel = KERNEL.map(([name, title]) => {
    const found = readGoldenRun(`${name}/run.json.br`).run.checkpoints.find((each) => each.title === title);
    if (found === undefined) throw new Error(`no checkpoint '${title}' in ${name}`);
    return { name: `${name} ${title}`, bytes: found.metadata };
  });
  return [
    { name: "usual", bytes: usual },
    kernel[0]!,
    { name: "many", bytes: makeManyDevices() },
    kernel[1]!,
    { name: "restored", bytes: restored(usual) },
    kernel[2]!,
    { name: "empty", bytes: makeEmptyPool() },
    kernel[3]!,
  ];
}

/** What thin_restore makes of what thin_dump says. */
function restored(metadata: Uint8Array): Uint8Array {
  const folder = mkdtempSync(join(tmpdir(), "udm-restored-"));
  try {
    const [image, xml, copy] = ["image", "xml", "copy"].map((name) => join(folder, name)) as [string, string, string];
    writeFileSync(image, metadata);
    writeFileSync(copy, new Uint8Array(metadata.length));
    for (const [program, ...words] of [
      ["thin_dump", "-o", xml, image],
      ["thin_restore", "-i", xml, "-o", copy],
    ] as const) {
      const ran = spawnSync(program, words, { env: { PATH }, encoding: "utf8" });
      if (ran.status !== 0) throw new Error(`${program}: ${ran.stderr}`);
    }
    return new Uint8Array(readFileSync(copy));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
