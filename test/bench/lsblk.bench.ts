/**
 * `udm lsblk` where a pool has a thousand active thin devices, over a node that does nothing.
 *
 * What bounds it: node's start and the compilation of what is loaded, the state file (a quarter of a megabyte of JSON), and
 * the machine's own devices, which are read from /sys. The pool is opened only for columns that need it, such as MAPPED.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run as runProgram } from "../../src/io/index.js";
import { environmentOf, type Session, timed } from "./bench.js";

export const name = "lsblk";
export const summary = "udm lsblk over 1,000 thin devices, over an empty node";
export const usesProgram = true;

const DEVICES = 1000;
const MOST_ABOVE_NODE_MS = 300;
const ROUNDS = 15;
const TIMEOUT_MS = 120_000;

export async function run(session: Session): Promise<void> {
  const env = environmentOf(session);
  const node = (...args: readonly string[]) => runProgram(process.execPath, args, { env, timeoutMs: TIMEOUT_MS });
  const udm = (...args: readonly string[]) => node(session.program, ...args);
  await udm("loop", "attach", join(session.folder, "metadata.img"), "--size", "128m");
  await udm("loop", "attach", join(session.folder, "data.img"), "--size", "10g");
  await udm("pool", "create", "pool", "--table", "0 20971520 thin-pool 7:0 7:1 128 0");
  const lines = Array.from({ length: DEVICES }, (_, index) =>
    index === 0 ? "thin create pool thin0 --size 1g" : `thin snap thin0 thin${index}`,
  );
  const script = join(session.folder, "script");
  await writeFile(script, `${lines.join("\n")}\n`);
  await udm("batch", "--atomic", script);
  const peer = { label: "node -e 0", measure: () => timed(() => node("-e", "0")) };
  for (const words of [["lsblk"], ["lsblk", "-o", "+POOL,ID,MAPPED,DATA%,ORIGIN,STATE"], ["lsblk", "-J"]]) {
    await session.compare({
      title: `udm ${words.join(" ")}`,
      unit: "ms",
      ours: { label: "udm", measure: () => timed(() => udm(...words)) },
      peer,
      rounds: ROUNDS,
      warmUps: 2,
      floors: [{ kind: "above peer", atMost: MOST_ABOVE_NODE_MS }],
    });
  }
}
