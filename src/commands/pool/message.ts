/** `udm pool message`: the thin-pool target's own messages, as `dmsetup message POOL 0 ...`. */
import { Command } from "commander";
import { change } from "../change.js";
import type { Context } from "../context.js";

export function messageCommand(context: Context): Command {
  return new Command("message")
    .description(
      "Sends a message to the thin-pool target: create_thin ID, create_snap ID ORIGIN, delete ID, " +
        "set_transaction_id OLD NEW, reserve_metadata_snap, release_metadata_snap.",
    )
    .argument("<name>", "the pool")
    .argument("<word...>", "the message")
    .action(async (name: string, words: readonly string[]) => {
      await change(context, {
        plan: (host) => host.plan.poolMessage(name, words),
        run: (host) => host.poolMessage(name, words),
      });
    });
}
