// Bundles src into dist: one entry for the program, one for the library, chunks shared between them, so that starting
// one command reads few files. koffi stays outside, it finds its native part beside itself.
import { readdir, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { build } from "esbuild";

const { metafile } = await build({
  entryPoints: ["src/main.ts", "src/index.ts"],
  outdir: "dist",
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node20.19",
  external: ["koffi"],
  // Every start reads and compiles the chunks it needs: half the bytes, and names stay as they are.
  minifySyntax: true,
  minifyWhitespace: true,
  sourcemap: "linked",
  metafile: true,
  chunkNames: "chunks/[name]-[hash]",
  // Bundled CommonJS packages ask for node's own modules through require.
  banner: {
    js: 'import { createRequire as udmCreateRequire } from "node:module"; const require = udmCreateRequire(import.meta.url);',
  },
});

// What an earlier build left goes last, so that a program started meanwhile finds its files.
const made = new Set(Object.keys(metafile.outputs).map((path) => basename(path)));
for (const folder of ["dist", "dist/chunks"]) {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isFile() && !made.has(entry.name)) await rm(join(folder, entry.name));
  }
}
