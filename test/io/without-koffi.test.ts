/** The same code as it would run where koffi has no binary: bundled, in a folder without packages. */
import { join } from "node:path";
import { build } from "esbuild";
import { expect, test } from "vitest";
import { run } from "../../src/io/index.js";
import { temporaryFolder } from "../support/make-folder.js";

async function bundleInto(folder: string): Promise<void> {
  await build({
    entryPoints: ["src/io/index.ts"],
    outfile: join(folder, "io.mjs"),
    bundle: true,
    format: "esm",
    platform: "node",
    target: "node20.19",
    external: ["koffi", "execa"],
    logLevel: "silent",
  });
}

test("without koffi files still work, are locked, and it is said why", async () => {
  const folder = temporaryFolder();
  await bundleInto(folder);
  const script = `
    import * as io from "./io.mjs";
    const path = ${JSON.stringify(join(folder, "disk.img"))};
    const device = io.FileDevice.open(path, { createBytes: 1048576 });
    const claim = new io.Claims().claim({ path, role: "data" });
    let refused = "";
    try { new io.Claims().claim({ path, role: "data" }); } catch (error) { refused = error.code; }
    const bytes = new Uint8Array(65536).fill(7);
    device.sync.write(65536, bytes);
    await device.discard(65536, 65536);
    device.sync.write(131072, bytes);
    const found = new Uint8Array(65536);
    device.sync.read(131072, found);
    device.sync.flush();
    claim.release();
    console.log(JSON.stringify({ ...io.nativeSupport(), refused, same: Buffer.compare(found, bytes) === 0 }));
  `;
  const { stdout } = await run(process.execPath, ["--input-type=module", "-e", script], { cwd: folder });
  const said = JSON.parse(stdout) as { available: boolean; reason: string; refused: string; same: boolean };
  expect(said).toMatchObject({ available: false, refused: "EBUSY", same: true });
  expect(said.reason).toMatch(/^koffi does not load: Cannot find module 'koffi'/);
});

test("koffi and execa are loaded at first use, not before", async () => {
  const script = `
    import { Module } from "node:module";
    const io = await import("./src/io/index.ts");
    const loaded = () => Object.keys(Module._cache).some((path) => path.includes("koffi"));
    const device = new io.MemoryDevice({ sizeBytes: 65536 });
    device.sync.write(0, new Uint8Array(512));
    const before = loaded();
    io.nativeCalls();
    console.log(JSON.stringify([before, loaded() === io.nativeSupport().available]));
  `;
  const { stdout } = await run(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script]);
  expect(JSON.parse(stdout)).toEqual([false, true]);
});
