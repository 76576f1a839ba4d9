/** `udm thin rollback`: a thin device holds again what a snapshot holds. */
import { Command } from "commander";
import { change } from "../change.js";
import type { Context } from "../context.js";

export function rollbackCommand(context: Context): Command {
  return new Command("rollback")
    .description("Sets a thin device back to a snapshot. What was written since is lost; the snapshot stays.")
    .argument("<name>", "the thin device")
    .argument("<snapshot>", "the snapshot to go back to")
    .action(async (name: string, snapshot: string) => {
      await change(context, {
        plan: (host) => host.plan.rollbackThin(name, snapshot),
        destroys: `set thin device '${name}' back to '${snapshot}'`,
        run: (host) => host.rollbackThin(name, snapshot),
      });
    });
}
