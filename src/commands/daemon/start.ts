/** `udm daemon start`: the process that serves devices, in the background or in the foreground. */
import { closeSync, writeSync } from "node:fs";
import { Command, Option } from "commander";
import { mistakeText } from "../../errors/index.js";
import type { Readiness } from "../../host/index.js";
import { change } from "../change.js";
import type { Context } from "../context.js";
import { countOf } from "../parse.js";

/** Once it has ended. */
const LINGER_MS = 1000;

interface StartOptions {
  readonly foreground?: boolean;
  readonly runDir?: string;
  readonly readyFd?: number;
  readonly endsWhenIdle?: boolean;
}

export function startCommand(context: Context): Command {
  return new Command("start")
    .description(
      "Starts the daemon of this state dir, which stays until it is told to end. One that runs already is left as it is, and stays from now on.",
    )
    .option("--foreground", "do not go to the background; log to standard error")
    .addOption(new Option("--run-dir <dir>", "where its socket lies").hideHelp())
    .addOption(new Option("--ready-fd <fd>", "tell how it went on this descriptor").argParser(countOf("fd")).hideHelp())
    .addOption(new Option("--ends-when-idle", "end when nothing is served any more").hideHelp())
    .action((options: StartOptions) => (options.foreground === true ? serve(context, options) : start(context)));
}

async function start(context: Context): Promise<void> {
  const { daemonHost } = await import("../../host/index.js");
  await change(context, {
    plan: async () => [],
    run: async () => {
      const program = context.daemonProgram({ endsWhenIdle: false });
      const { host } = await daemonHost({ ...context.hostOptions, program });
      await host.keepDaemon();
      const info = await host.daemonInfo();
      await host.close();
      return info;
    },
    json: (info) => ({ daemon: info ?? null }),
  });
}

/** Until it is told to end, by a signal or a command. */
async function serve(context: Context, options: StartOptions): Promise<void> {
  const { Daemon, errorToPlain } = await import("../../host/index.js");
  const interrupt = context.takeInterrupt();
  const { stateDir, runDir, lockTimeoutMs, version } = context.hostOptions;
  const { stderr } = context.streams;
  const log = (line: string) => stderr.write(`${new Date().toISOString()} udm daemon ${process.pid}: ${line}\n`);
  const tell = (readiness: Readiness) => {
    if (options.readyFd === undefined) return;
    writeSync(options.readyFd, JSON.stringify(readiness));
    closeSync(options.readyFd);
  };
  let daemon: Awaited<ReturnType<typeof Daemon.start>>;
  try {
    daemon = await Daemon.start({
      stateDir,
      runDir: options.runDir ?? runDir,
      version,
      lockTimeoutMs,
      endsWhenIdle: options.endsWhenIdle === true,
      log,
    });
  } catch (error) {
    tell({ ready: false, error: errorToPlain(error) });
    throw error;
  }
  // A mistake in the service of one device does not end that of the others. Whatever was not committed by then is not.
  const onMistake = (error: unknown) => log(mistakeText(error));
  process.on("uncaughtException", onMistake);
  process.on("unhandledRejection", onMistake);
  tell({ ready: true });
  const stop = () => void daemon.stop().catch(() => undefined);
  interrupt.addEventListener("abort", stop, { once: true });
  if (interrupt.aborted) stop();
  await daemon.ended;
  interrupt.removeEventListener("abort", stop);
  process.off("uncaughtException", onMistake);
  process.off("unhandledRejection", onMistake);
  // The state's lock is given back: what a service could not end, and left behind, must not keep the process.
  setTimeout(() => process.exit(), LINGER_MS).unref();
  // A failure to flush or commit is told.
  await daemon.stop();
}
