/** Status lines, event counters and refusals in every mode, by the kernel and by the engine after the same steps. */
import { beforeAll, describe, expect, test } from "vitest";
import { MODE_SCRIPTS, type ModeScript } from "../support/mode-scripts.js";
import { stepText } from "../support/pool-script.js";
import { runScriptOnEngine } from "../support/pool-script-engine.js";
import { type GuestPool, runScriptsInGuest } from "./guest/session.js";

const guestPools = new Map<string, GuestPool>();

beforeAll(async () => {
  // The timeout is a setting of the whole module, so scripts are gathered by it.
  for (const seconds of new Set(MODE_SCRIPTS.map(({ noSpaceTimeoutSeconds }) => noSpaceTimeoutSeconds))) {
    const scripts = MODE_SCRIPTS.filter(({ noSpaceTimeoutSeconds }) => noSpaceTimeoutSeconds === seconds);
    const before =
      seconds === undefined ? "" : `echo ${seconds} > /sys/module/dm_thin_pool/parameters/no_space_timeout`;
    for (const pool of await runScriptsInGuest(
      scripts.map((script) => ({ script })),
      { before },
    )) {
      guestPools.set(pool.script.name, pool);
    }
  }
});

/** What was answered, a line per step; commits are left out: the kernel's timer adds its own here. */
function transcript({ steps }: ModeScript, results: readonly { outcome: string; text: string }[]): string[] {
  return steps.map((step, index) => `${stepText(step)}: ${results[index]?.outcome} ${results[index]?.text}`);
}

describe.each(MODE_SCRIPTS.map((script) => [script.name, script] as const))("%s", (name, script) => {
  test("the engine answers as the kernel does", async () => {
    const seconds = script.noSpaceTimeoutSeconds;
    const ours = await runScriptOnEngine(script, seconds === undefined ? {} : { noSpaceTimeoutMs: seconds * 1000 });
    expect(transcript(script, ours.run.results)).toEqual(transcript(script, guestPools.get(name)!.run.results));
  });
});
