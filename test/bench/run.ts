/**
 * `npm run bench [-- NAME...] [--json] [--list] [--no-build]`: runs the bench files of this folder and prints a table.
 *
 * Each is bundled first, as the program itself is: loaded file by file, with its imports as live bindings, the same code
 * runs at half the speed. The program is built anew too where a bench uses it, so that what is measured is what lies in src.
 */
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { build } from "esbuild";
import { messageOf } from "../../src/errors/index.js";
import { run } from "../../src/io/index.js";
import { renderTable, type TableColumn } from "../../src/ui/index.js";
import type { Bench, Row, Samples, Unit } from "./bench.js";
import { compare } from "./compare.js";
import { describeMachine } from "./machine.js";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const HERE = join(ROOT, "test/bench");
const SUFFIX = ".bench.ts";
const BUILD_TIMEOUT_MS = 300_000;

const USAGE = "usage: npm run bench [-- NAME...] [--json] [--list] [--no-build]";

const { values: options, positionals: wanted } = readArguments();
if (options.help) {
  console.log(USAGE);
  process.exit(0);
}

const bundles = await mkdtemp(join(ROOT, "node_modules/.udm-bench-"));
try {
  const benches = await loadBenches(bundles);
  if (options.list) for (const bench of benches) console.log(`${bench.name.padEnd(12)} ${bench.summary}`);
  else await runAll(chosen(benches));
} finally {
  await rm(bundles, { recursive: true, force: true });
}

function readArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      allowNegative: true,
      options: {
        json: { type: "boolean", default: false },
        list: { type: "boolean", default: false },
        build: { type: "boolean", default: true },
        help: { type: "boolean", default: false },
      },
    });
  } catch (error) {
    console.error(`${messageOf(error)}\n${USAGE}`);
    process.exit(2);
  }
}

async function loadBenches(outdir: string): Promise<readonly Bench[]> {
  const files = (await readdir(HERE)).filter((file) => file.endsWith(SUFFIX)).sort();
  await build({
    entryPoints: files.map((file) => join(HERE, file)),
    outdir,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    format: "esm",
    platform: "node",
    target: "node20.19",
    external: ["koffi"],
    banner: { js: 'import { createRequire as r } from "node:module"; const require = r(import.meta.url);' },
  });
  return Promise.all(
    files.map(async (file) => {
      const bundle = join(outdir, `${basename(file, ".ts")}.mjs`);
      return (await import(pathToFileURL(bundle).href)) as Bench;
    }),
  );
}

function chosen(benches: readonly Bench[]): readonly Bench[] {
  const unknown = wanted.find((word) => !benches.some((bench) => bench.name === word));
  if (unknown !== undefined) {
    console.error(`no bench is called ${unknown}; there are ${benches.map((bench) => bench.name).join(" ")}`);
    process.exitCode = 2;
    return [];
  }
  return wanted.length === 0 ? benches : benches.filter((bench) => wanted.includes(bench.name));
}

async function runAll(benches: readonly Bench[]): Promise<void> {
  if (benches.length === 0) return;
  const machine = await describeMachine();
  if (options.build && benches.some((bench) => bench.usesProgram === true)) {
    await run(process.execPath, ["esbuild.config.js"], { cwd: ROOT, timeoutMs: BUILD_TIMEOUT_MS });
  }
  const rows: Row[] = [];
  const notes: string[] = [];
  for (const bench of benches) {
    process.stderr.write(`${bench.name}: ${bench.summary}\n`);
    const folder = await mkdtemp(join(tmpdir(), "udm-bench-"));
    try {
      await bench.run({
        folder,
        root: ROOT,
        program: join(ROOT, "bin/udm.js"),
        note: (text) => notes.push(`${bench.name}: ${text}`),
        compare: async (comparison) => {
          const row = await compare(bench.name, comparison);
          rows.push(row);
          process.stderr.write(`  ${row.title}: ${formatSamples(row.ours, row.unit)} ${row.unit}\n`);
        },
      });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }
  if (options.json) console.log(JSON.stringify({ machine, rows, notes }, undefined, 2));
  else {
    const { cpu, cores, memoryGiB, kernel, node, qemuImg, folder, fileSystem, load } = machine;
    console.log(`${cores} cores of ${cpu}, ${memoryGiB} GiB, kernel ${kernel}, node ${node}, qemu-img ${qemuImg}`);
    console.log(`files in ${folder} on ${fileSystem}; load at the beginning ${load}\n`);
    for (const line of await table(rows)) console.log(line.trimEnd());
    if (notes.length > 0) console.log(`\n${notes.join("\n")}`);
  }
}

function table(rows: readonly Row[]): Promise<readonly string[]> {
  const columns: TableColumn[] = [
    { heading: "BENCH", align: "left" },
    { heading: "WHAT", align: "left" },
    { heading: "UNIT", align: "left" },
    { heading: "OURS", align: "right" },
    { heading: "LEAST-MOST", align: "right" },
    { heading: "PEER", align: "right" },
    { heading: "LEAST-MOST", align: "right" },
    { heading: "RATIO", align: "right" },
    { heading: "MET", align: "left" },
    { heading: "FLOOR", align: "left" },
    { heading: "PEER IS", align: "left" },
  ];
  const cells = rows.map((row) => [
    row.bench,
    row.title,
    row.unit,
    formatNumber(row.ours.median),
    spread(row.ours),
    row.peer === undefined ? "-" : formatNumber(row.peer.median),
    row.peer === undefined ? "-" : spread(row.peer),
    row.ratio === undefined ? "-" : row.ratio.toFixed(2),
    row.isMet === undefined ? "-" : row.isMet ? "yes" : "NO",
    row.floor === "" ? "-" : row.floor,
    row.peer?.label ?? "-",
  ]);
  return renderTable(columns, cells, { headings: true });
}

function formatSamples(samples: Samples, _unit: Unit): string {
  return `${formatNumber(samples.median)} (${spread(samples)})`;
}

function spread({ least, most }: Samples): string {
  return `${formatNumber(least)}-${formatNumber(most)}`;
}

function formatNumber(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString("en-US");
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
