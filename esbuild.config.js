// Bundles src into dist: one entry for the program, one for the library, chunks shared between them, so that starting
// one command reads few files. koffi stays outside, it finds its native part beside itself.
import { rm } from "node:fs/promises";
import { build } from "esbuild";

await rm("dist", { recursive: true, force: true });
await build({
  entryPoints: ["src/main.ts", "src/index.ts"],
  outdir: "dist",
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node20.19",
  external: ["koffi"],
  sourcemap: "linked",
  chunkNames: "chunks/[name]-[hash]",
  // Bundled CommonJS packages ask for node's own modules through require.
  banner: {
    js: 'import { createRequire as udmCreateRequire } from "node:module"; const require = udmCreateRequire(import.meta.url);',
  },
});
