/** The thin-provisioning tools of the system, where they are installed: what they say of an image we or a kernel wrote. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { DumpDevice, DumpModel } from "./pool-model.js";

const PATH = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;

/** Whether thin_check and thin_dump are there; tests that need them are skipped by name otherwise, but never in CI. */
export const HAS_THIN_TOOLS =
  process.env.CI === "true" ||
  (spawnSync("thin_check", ["--version"], { env: { PATH } }).status === 0 &&
    spawnSync("thin_dump", ["--version"], { env: { PATH } }).status === 0);

/** Everything thin_check prints when it finds damage; undefined when the image is clean. */
export function thinCheck(image: Uint8Array): string | undefined {
  const { status, output } = runTool("thin_check", [], image);
  return status === 0 ? undefined : `thin_check exits ${status}: ${output}`;
}

/** The same without waiting for each: thin_check sleeps most of its time, in the kernel's end of asynchronous reads. */
export async function thinCheckLater(path: string): Promise<string | undefined> {
  const child = spawn("thin_check", [path], { env: { PATH }, stdio: ["ignore", "pipe", "pipe"] });
  const [lines, errors] = await Promise.all([textOf(child.stdout), textOf(child.stderr), ended(child)]);
  return child.exitCode === 0 ? undefined : `thin_check exits ${child.exitCode}: ${lines}${errors}`;
}

async function textOf(stream: AsyncIterable<Buffer>): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces).toString("utf8");
}

function ended(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => child.on("error", reject).on("close", () => resolve()));
}

/** What thin_delta tells of two devices. */
export function thinDelta(image: Uint8Array, left: number, right: number, options: readonly string[] = []): string {
  const { status, output } = runTool("thin_delta", [...options, "--snap1", `${left}`, "--snap2", `${right}`], image);
  if (status !== 0) throw new Error(`thin_delta exits ${status}: ${output}`);
  return output;
}

/** @param options of thin_dump, `--metadata-snap` for instance */
export function thinDump(image: Uint8Array, options: readonly string[] = []): DumpModel {
  const { status, output } = runTool("thin_dump", options, image);
  if (status !== 0) throw new Error(`thin_dump exits ${status}: ${output}`);
  return parseDump(output);
}

/** The XML of thin_dump as a model; runs are taken apart into single mappings. */
export function parseDump(xml: string): DumpModel {
  const devices: (DumpDevice & { readonly mappings: [number, number, number][] })[] = [];
  let head: Omit<DumpModel, "devices"> | undefined;
  for (const line of xml.split("\n")) {
    const [, element] = /^\s*<([a-z_]+)/.exec(line) ?? [];
    const number = (name: string): number => {
      const [, value] = new RegExp(`\\b${name}="(\\d+)"`).exec(line) ?? [];
      if (value === undefined) throw new Error(`thin_dump's ${element} has no ${name}: ${line}`);
      return Number(value);
    };
    if (element === "superblock") {
      head = {
        time: number("time"),
        transactionId: number("transaction"),
        dataBlockSectors: number("data_block_size"),
        dataBlocks: number("nr_data_blocks"),
      };
    } else if (element === "device") {
      devices.push({
        id: number("dev_id"),
        mappedBlocks: number("mapped_blocks"),
        transactionId: number("transaction"),
        creationTime: number("creation_time"),
        snapshottedTime: number("snap_time"),
        mappings: [],
      });
    } else if (element === "single_mapping") {
      devices.at(-1)!.mappings.push([number("origin_block"), number("data_block"), number("time")]);
    } else if (element === "range_mapping") {
      for (let index = 0; index < number("length"); index++) {
        devices.at(-1)!.mappings.push([number("origin_begin") + index, number("data_begin") + index, number("time")]);
      }
    }
  }
  if (head === undefined) throw new Error(`thin_dump printed no superblock: ${xml.slice(0, 200)}`);
  return { ...head, devices };
}

function runTool(tool: string, options: readonly string[], image: Uint8Array): { status: number; output: string } {
  const folder = mkdtempSync(join(tmpdir(), "udm-tool-"));
  try {
    const path = join(folder, "metadata.img");
    writeFileSync(path, image);
    const result = spawnSync(tool, [...options, path], {
      env: { PATH },
      encoding: "utf8",
      timeout: 120_000,
      maxBuffer: 512 * 1024 * 1024,
    });
    if (result.error !== undefined) throw result.error;
    return { status: result.status ?? -1, output: `${result.stdout}${result.status === 0 ? "" : result.stderr}` };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
