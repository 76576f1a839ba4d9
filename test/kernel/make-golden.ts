/** Makes test/golden/kernel-*: `npx tsx test/kernel/make-golden.ts`. Run it when a script here changes. */
import { writeGoldenRun } from "../support/golden-images.js";
import { KERNEL_TRACE } from "../support/kernel-trace.js";
import { randomPoolScript } from "../support/random-pool-script.js";
import { runScriptsInGuest } from "./guest/session.js";

const goldens = {
  "kernel-trace/run.json.br": KERNEL_TRACE,
  "kernel-random/run.json.br": randomPoolScript({ seed: 42, operations: 400, checkpointEvery: 50 }),
};
const pools = await runScriptsInGuest(Object.values(goldens).map((script) => ({ script })));
for (const [index, name] of Object.keys(goldens).entries()) writeGoldenRun(name, pools[index]!);
