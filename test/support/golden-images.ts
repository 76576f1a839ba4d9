/**
 * Runs of a script by a real kernel, kept in test/golden so that a test without a guest can compare with them: the script,
 * what every step answered, and the metadata device at every checkpoint. Only blocks that changed since the checkpoint
 * before are stored, the whole is compressed.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { brotliCompressSync, brotliDecompressSync, constants } from "node:zlib";
import { METADATA_BLOCK_BYTES } from "./metadata-image.js";
import type { PoolScript, ScriptRun, StepResult } from "./pool-script.js";

interface StoredRun {
  readonly script: PoolScript;
  readonly results: readonly (readonly [outcome: string, commits: number, text: string])[];
  readonly checkpoints: readonly {
    readonly title: string;
    readonly step: number;
    readonly bytes: number;
    /** Changed blocks in hexadecimal, by number. */
    readonly blocks: Readonly<Record<string, string>>;
  }[];
}

export interface GoldenRun {
  readonly script: PoolScript;
  readonly run: ScriptRun;
}

/** @param name file below test/golden, "kernel-trace/run.json.br" */
export function readGoldenRun(name: string): GoldenRun {
  const stored = JSON.parse(brotliDecompressSync(readFileSync(goldenPath(name))).toString("utf8")) as StoredRun;
  let previous = new Uint8Array(0);
  const checkpoints = stored.checkpoints.map(({ title, step, bytes, blocks }) => {
    const metadata = new Uint8Array(bytes);
    metadata.set(previous);
    for (const [number, block] of Object.entries(blocks)) {
      metadata.set(Buffer.from(block, "hex"), Number(number) * METADATA_BLOCK_BYTES);
    }
    previous = metadata;
    return { title, step, metadata };
  });
  const results = stored.results.map(([outcome, commits, text]): StepResult => ({ outcome, commits, text }));
  return { script: stored.script, run: { results, checkpoints } };
}

export function writeGoldenRun(name: string, { script, run }: GoldenRun): void {
  let previous = new Uint8Array(0);
  const checkpoints = run.checkpoints.map(({ title, step, metadata }) => {
    const blocks: Record<string, string> = {};
    for (let at = 0; at < metadata.length; at += METADATA_BLOCK_BYTES) {
      const block = metadata.subarray(at, at + METADATA_BLOCK_BYTES);
      const before = previous.subarray(at, at + METADATA_BLOCK_BYTES);
      const isSame = before.length === 0 ? block.every((byte) => byte === 0) : Buffer.compare(block, before) === 0;
      if (!isSame) blocks[at / METADATA_BLOCK_BYTES] = Buffer.from(block).toString("hex");
    }
    previous = new Uint8Array(metadata);
    return { title, step, bytes: metadata.length, blocks };
  });
  const results = run.results.map(({ outcome, commits, text }) => [outcome, commits ?? 0, text] as const);
  const stored: StoredRun = { script, results, checkpoints };
  // Copies of a block are far apart; a window that holds them all makes the file a quarter of what gzip does.
  const params = { [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS };
  writeFileSync(goldenPath(name), brotliCompressSync(JSON.stringify(stored), { params }));
}

function goldenPath(name: string): URL {
  return new URL(`../golden/${name}`, import.meta.url);
}
