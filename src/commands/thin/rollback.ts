/** `udm thin rollback`: a thin device holds again what a snapshot holds. */
import { Command } from "commander";
import { change, quoted } from "../change.js";
import type { Context } from "../context.js";
import { thinNamed } from "./lookup.js";

export function rollbackCommand(context: Context): Command {
  return new Command("rollback")
    .description("Sets a thin device back to a snapshot. What was written since is lost; the snapshot stays.")
    .argument("<name>", "the thin device")
    .argument("<snapshot>", "the snapshot to go back to")
    .action(async (name: string, snapshot: string) => {
      await change(context, {
        plan: async (host) => {
          await host.deviceInfo(name);
          const { pool, id } = await thinNamed(host, snapshot);
          const at = quoted(pool);
          return [
            `dmsetup remove ${quoted(name)}`,
            `dmsetup message ${at} 0 delete ID-OF-${quoted(name)}`,
            `dmsetup message ${at} 0 create_snap NEW-ID ${id}`,
            `dmsetup create ${quoted(name)} --table '... thin /dev/mapper/${pool} NEW-ID'`,
          ];
        },
        destroys: `set thin device '${name}' back to '${snapshot}'`,
        run: (host) => host.rollbackThin(name, snapshot),
      });
    });
}
