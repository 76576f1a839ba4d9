// Bundles src into dist: one entry for the program, one for the library, chunks shared between them, so that starting
// one command reads few files. koffi stays outside, it finds its native part beside itself.
//
// And once more into one file, which code-cache.config.js makes V8's compiled code for.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdir, rename, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { build } from "esbuild";
import { codeFileName } from "./bin/load.js";

const options = {
  outdir: "dist",
  bundle: true,
  platform: "node",
  target: "node20.19",
  external: ["koffi"],
  // Every start reads and compiles the chunks it needs: half the bytes, and names stay as they are.
  minifySyntax: true,
  minifyWhitespace: true,
};

const { metafile } = await build({
  ...options,
  entryPoints: ["src/main.ts", "src/index.ts"],
  splitting: true,
  format: "esm",
  sourcemap: "linked",
  metafile: true,
  chunkNames: "chunks/[name]-[hash]",
  // Bundled CommonJS packages ask for node's own modules through require.
  banner: {
    js: 'import { createRequire as udmCreateRequire } from "node:module"; const require = udmCreateRequire(import.meta.url);',
  },
});

const whole = await build({
  ...options,
  entryPoints: { program: "src/main.ts" },
  outExtension: { ".js": ".cjs" },
  format: "cjs",
  // A function made by node:vm has require, not import.
  supported: { "dynamic-import": false },
  define: { "import.meta.url": "udmProgramUrl" },
  banner: { js: 'const udmProgramUrl = require("node:url").pathToFileURL(__filename).href;' },
  write: false,
});
const [{ contents }] = whole.outputFiles;
const id = createHash("sha256").update(contents).digest("hex").slice(0, 16);
await writeFile("dist/program.cjs.new", [`//${id}\n`, contents]);
await rename("dist/program.cjs.new", "dist/program.cjs");
// Without it the program starts as well, only later.
const { status } = spawnSync(process.execPath, ["code-cache.config.js"], { stdio: "inherit", timeout: 120_000 });
if (status !== 0)
  process.stderr.write(`code-cache.config.js ended with ${status}: the program starts without compiled code\n`);

// What an earlier build left goes last, so that a program started meanwhile finds its files.
const made = new Set([...Object.keys(metafile.outputs).map((path) => basename(path)), "program.cjs", codeFileName()]);
for (const folder of ["dist", "dist/chunks"]) {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isFile() && !made.has(entry.name)) await rm(join(folder, entry.name));
  }
}
