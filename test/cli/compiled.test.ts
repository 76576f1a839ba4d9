/** The program as one file with V8's compiled code (bin/load.js): what runs is always what was built. */
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import { VERSION } from "../../src/version.js";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const ID_BYTES = 16;

interface Loader {
  loadCompiled(dist?: URL): { readonly main: unknown } | undefined;
  codeFileName(): string;
}

let loader: Loader;
let folder: string;

beforeEach(async () => {
  loader = (await import(pathToFileURL(join(ROOT, "bin/load.js")).href)) as Loader;
  folder = mkdtempSync(join(tmpdir(), "udm-compiled-"));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** The built program somewhere else, with code that `change` was let at. */
function buildWith(change: (code: Buffer) => Buffer): string {
  for (const part of ["bin", "dist"]) mkdirSync(join(folder, part));
  for (const file of ["bin/udm.js", "bin/load.js", "bin/streams.js", "dist/program.cjs"])
    copyFileSync(join(ROOT, file), join(folder, file));
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  const name = loader.codeFileName();
  writeFileSync(join(folder, "dist", name), change(readFileSync(join(ROOT, "dist", name))));
  return join(folder, "dist/");
}

function version(): { readonly status: number | null; readonly stdout: string; readonly stderr: string } {
  return spawnSync(process.execPath, [join(folder, "bin/udm.js"), "--version"], { encoding: "utf8" });
}

test("what was built for this V8 is what runs", () => {
  expect(loader.loadCompiled()?.main).toBeTypeOf("function");
  buildWith((code) => code);
  expect(version()).toMatchObject({ status: 0, stdout: `udm ${VERSION}\n`, stderr: "" });
});

test("nothing in it asks for modules in a way that is not there", () => {
  expect(readFileSync(join(ROOT, "dist/program.cjs"), "latin1")).not.toMatch(/[^.\w]import\(/);
});

test("code that V8 refuses is left aside: the program runs without it", () => {
  buildWith((code) => Buffer.concat([code.subarray(0, ID_BYTES), Buffer.alloc(code.length - ID_BYTES, 0x5a)]));
  expect(version()).toMatchObject({ status: 0, stdout: `udm ${VERSION}\n`, stderr: "" });
});

test("so is code that was cut off", () => {
  buildWith((code) => code.subarray(0, 100_000));
  expect(version()).toMatchObject({ status: 0, stdout: `udm ${VERSION}\n`, stderr: "" });
});

test("code of another build is not used", () => {
  const dist = buildWith((code) => Buffer.concat([Buffer.alloc(ID_BYTES, "0"), code.subarray(ID_BYTES)]));
  expect(loader.loadCompiled(pathToFileURL(dist))).toBeUndefined();
  // There are no modules in that folder to fall back on.
  expect(version().stderr).toContain("main.js");
});

test("without code for this V8 the modules are read", () => {
  expect(loader.loadCompiled(pathToFileURL(join(folder, "/")))).toBeUndefined();
});
