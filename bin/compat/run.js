// Runs a program of thin-provisioning-tools with udm's commands; each file beside this one is called as its program.
import { loadProgram } from "../load.js";
import { programStreams } from "../streams.js";

export async function run(name) {
  const { thinToolMain } = await loadProgram();
  const { streams, end } = programStreams(name);
  const interrupt = new AbortController();
  const onInterrupt = () => {
    if (interrupt.signal.aborted) process.exit(130);
    interrupt.abort();
  };
  process.on("SIGINT", onInterrupt);
  process.on("SIGTERM", onInterrupt);
  const status = await thinToolMain(name, process.argv.slice(2), streams, {
    environment: process.env,
    isRoot: process.geteuid?.() === 0,
    interrupt: interrupt.signal,
  });
  process.exitCode = end(status);
  process.off("SIGINT", onInterrupt);
  process.off("SIGTERM", onInterrupt);
  if (interrupt.signal.aborted) process.exit(process.exitCode);
}
