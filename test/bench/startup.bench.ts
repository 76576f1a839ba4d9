/**
 * How long a command takes that does next to nothing, over a node that does nothing.
 *
 * What bounds it. Both: the program is read as one file together with V8's compiled code (bin/load.js), which is put into
 * memory whole. `pool status`, on top: node's own modules for sockets and hashes, koffi for the locks (5 ms), the rest opens
 * the pool. Without compiled code for this V8 the modules are read and compiled: 30 ms more for whatever needs the host.
 */
import { join } from "node:path";
import { run as runProgram } from "../../src/io/index.js";
import { environmentOf, type Session, timed } from "./bench.js";

export const name = "startup";
export const summary = "udm --version and udm pool status over an empty node";
export const usesProgram = true;

const MOST_ABOVE_NODE_MS = 60;
const ROUNDS = 25;

export async function run(session: Session): Promise<void> {
  const env = environmentOf(session);
  const node = (...args: readonly string[]) => runProgram(process.execPath, args, { env });
  const udm = (...args: readonly string[]) => node(session.program, ...args);
  await udm("loop", "attach", join(session.folder, "metadata.img"), "--size", "128m");
  await udm("loop", "attach", join(session.folder, "data.img"), "--size", "10g");
  await udm("pool", "create", "pool", "--table", "0 20971520 thin-pool 7:0 7:1 128 0");
  const peer = { label: "node -e 0", measure: () => timed(() => node("-e", "0")) };
  for (const words of [["--version"], ["pool", "status", "pool"]]) {
    await session.compare({
      title: `udm ${words.join(" ")}`,
      unit: "ms",
      ours: { label: "udm", measure: () => timed(() => udm(...words)) },
      peer,
      rounds: ROUNDS,
      warmUps: 3,
      floors: [{ kind: "above peer", atMost: MOST_ABOVE_NODE_MS }],
    });
  }
}
