/** Before the tests of the real binary: bundles the program anew when a source is younger than it. */
import { execFileSync } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

export function setup(): void {
  if (!isStale()) return;
  execFileSync(process.execPath, ["esbuild.config.js"], { cwd: ROOT, stdio: "inherit" });
}

function isStale(): boolean {
  const built = statSync(join(ROOT, "dist/main.js"), { throwIfNoEntry: false })?.mtimeMs;
  if (built === undefined) return true;
  const sources = readdirSync(join(ROOT, "src"), { recursive: true, encoding: "utf8" });
  return sources.some((path) => statSync(join(ROOT, "src", path)).mtimeMs > built);
}
