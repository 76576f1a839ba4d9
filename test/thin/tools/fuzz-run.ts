/** A part of the long fuzz by itself: `npx tsx test/thin/tools/fuzz-run.ts FROM COUNT`, and what came out, as JSON. */
import { fuzzBases } from "../../support/fuzz-bases.js";
import { fuzzMetadata } from "../../support/metadata-fuzz.js";

const [from = 0, count = 1000] = process.argv.slice(2).map(Number);
const { explained, wrong, ...numbers } = await fuzzMetadata({ bases: fuzzBases(), from, count });
process.stdout.write(
  `${JSON.stringify({ from, ...numbers, explained: Object.fromEntries(explained), wrong }, undefined, 1)}\n`,
);
if (wrong.length > 0) process.exitCode = 1;
