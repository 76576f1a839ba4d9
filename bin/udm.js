#!/usr/bin/env node
// The program `udm`: hands the process's words and streams to main and takes its exit status.
import { fileURLToPath } from "node:url";
import { loadProgram } from "./load.js";

const { main } = await loadProgram();

const { stdout, stderr } = process;
const streams = {
  // Node makes it non-blocking for whoever shares it when it is first looked at, `while read` around us for one.
  get stdin() {
    return process.stdin;
  },
  stdout,
  stderr,
};
// A reader that went away (`udm lsblk | head -1`) is no failure of ours; main ends what was being written.
for (const stream of [stdout, stderr]) {
  stream.on("error", (error) => {
    if (error.code !== "EPIPE") process.exitCode = 1;
  });
}

const interrupt = new AbortController();
const onInterrupt = () => {
  // Asked twice: at once. Whatever was committed stays, what was not never happened.
  // What still waits is left behind; a command that sees to signals itself has its own status.
  if (interrupt.signal.aborted) process.exit(process.exitCode);
  interrupt.abort();
};
process.on("SIGINT", onInterrupt);
process.on("SIGTERM", onInterrupt);

process.exitCode = await main(process.argv.slice(2), streams, {
  environment: process.env,
  isRoot: process.geteuid?.() === 0,
  interrupt: interrupt.signal,
  program: [process.execPath, fileURLToPath(import.meta.url)],
});
process.off("SIGINT", onInterrupt);
process.off("SIGTERM", onInterrupt);
// What still waits is left behind; a command that sees to signals itself has its own status.
if (interrupt.signal.aborted) process.exit(process.exitCode);
