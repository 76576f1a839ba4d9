#!/usr/bin/env node
// The program `udm`: hands the process's words and streams to main and takes its exit status.
import { fileURLToPath } from "node:url";
import { loadProgram } from "./load.js";
import { programStreams } from "./streams.js";

const { main } = await loadProgram();

const { streams, end } = programStreams("udm");

const interrupt = new AbortController();
const onInterrupt = () => {
  // Asked twice: at once. Whatever was committed stays, what was not never happened.
  // What still waits is left behind; a command that sees to signals itself has its own status.
  if (interrupt.signal.aborted) process.exit(process.exitCode);
  interrupt.abort();
};
process.on("SIGINT", onInterrupt);
process.on("SIGTERM", onInterrupt);

const status = await main(process.argv.slice(2), streams, {
  environment: process.env,
  isRoot: process.geteuid?.() === 0,
  interrupt: interrupt.signal,
  program: [process.execPath, fileURLToPath(import.meta.url)],
});
process.exitCode = end(status);
process.off("SIGINT", onInterrupt);
process.off("SIGTERM", onInterrupt);
// What still waits is left behind; a command that sees to signals itself has its own status.
if (interrupt.signal.aborted) process.exit(process.exitCode);
