/** A program of the user's that is run for each event: it finds the event in its environment and on its standard input. */
import { messageOf } from "../../errors/index.js";
import type { PoolEvent } from "../../host/index.js";
import { run } from "../../io/index.js";
import type { Context } from "../context.js";

const HOOK_MS = 60_000;

/** One after the other. A hook that fails is told and holds up nothing. */
export async function runHook(context: Context, command: string, event: PoolEvent): Promise<void> {
  const json = JSON.stringify(event);
  const env = { UDM_EVENT: event.event, UDM_POOL: event.pool, UDM_EVENT_JSON: json };
  try {
    const { stdout, stderr } = await run("/bin/sh", ["-c", command], { input: `${json}\n`, env, timeoutMs: HOOK_MS });
    for (const text of [stdout, stderr]) if (text !== "") context.note(`--exec: ${text}`);
  } catch (error) {
    context.note(`--exec: ${messageOf(error)}`);
  }
}
