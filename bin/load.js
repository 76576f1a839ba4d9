// Loads the program. Most of the time a command takes is spent in reading and compiling it, so the build keeps it once more
// as one file together with V8's compiled code, for the V8 that built it. Any other reads the modules.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { Script } from "node:vm";

const DIST = new URL("../dist/", import.meta.url);
/** Both files begin with the same sixteen letters when they were built together; the first, behind slashes. */
const ID_BYTES = 16;
const ID_PLACE = 2;

/** @returns what src/main.ts exports */
export async function loadProgram() {
  return loadCompiled() ?? (await import(new URL("main.js", DIST).href));
}

/** Undefined where there is no compiled code for this V8, or of another build. */
export function loadCompiled(dist = DIST) {
  let source;
  let code;
  try {
    code = readFileSync(new URL(codeFileName(), dist));
    source = readFileSync(new URL("program.cjs", dist), "latin1");
  } catch {
    return undefined;
  }
  if (code.latin1Slice(0, ID_BYTES) !== source.slice(ID_PLACE, ID_PLACE + ID_BYTES)) return undefined;
  return runProgram(source, code.subarray(ID_BYTES)).exports;
}

export function codeFileName() {
  return `program-${process.arch}-${process.versions.v8}.code`;
}

/** The file runs as one function, as CommonJS does; code that V8 does not want is left aside. */
export function runProgram(source, cachedData) {
  const filename = fileURLToPath(new URL("program.cjs", DIST));
  const script = new Script(`(function(module,exports,require,__filename){${source}\n})`, { filename, cachedData });
  const module = { exports: {} };
  script.runInThisContext()(module, module.exports, createRequire(new URL("program.cjs", DIST)), filename);
  return { script, exports: module.exports };
}
