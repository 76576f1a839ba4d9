/** A program of the user's that is run for each event: it finds the event in its environment and on its standard input. */
import { messageOf } from "../../errors/index.js";
import type { PoolEvent } from "../../host/index.js";
import { run } from "../../io/index.js";
import type { Context } from "../context.js";

const HOOK_MS = 60_000;

/** One after the other. A hook that fails is told and holds up nothing; one that runs when we are told to end is left to itself. */
export async function runHook(context: Context, command: string, event: PoolEvent): Promise<void> {
  const json = JSON.stringify(event);
  const env = { UDM_EVENT: event.event, UDM_POOL: event.pool, UDM_EVENT_JSON: json };
  const told = new AbortController();
  try {
    const running = run("/bin/sh", ["-c", command], { input: `${json}\n`, env, timeoutMs: HOOK_MS });
    const result = await Promise.race([running, untilAborted(context.interrupt, told.signal)]);
    if (result === undefined) {
      running.catch(() => undefined);
      return context.note("--exec: still runs, and is left to itself");
    }
    const { stdout, stderr } = result;
    for (const text of [stdout, stderr]) if (text !== "") context.note(`--exec: ${text}`);
  } catch (error) {
    context.note(`--exec: ${messageOf(error)}`);
  } finally {
    told.abort();
  }
}

/** @param done ends the listening */
function untilAborted(signal: AbortSignal | undefined, done: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) return resolve(undefined);
    signal?.addEventListener("abort", () => resolve(undefined), { once: true, signal: done });
  });
}
