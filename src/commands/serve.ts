/** `udm serve`: devices through a socket, for qemu, libnbd, nbd-client and other NBD clients. */
import { Command, Option } from "commander";
import { UsageError } from "../errors/index.js";
import { type ExportInfo, nbdExports } from "../host/index.js";
import { runShell } from "../io/index.js";
import { defined } from "./change.js";
import type { Context } from "./context.js";
import { countOf } from "./parse.js";

interface ServeOptions {
  readonly nbd?: string;
  readonly readOnly?: boolean;
  readonly run?: string;
  readonly tlsCertificates?: string;
  readonly tlsPsk?: string;
  readonly tlsVerifyPeer?: boolean;
  readonly maxConnections?: number;
}

export function serveCommand(context: Context): Command {
  return new Command("serve")
    .description(
      "Serves mapped devices to NBD clients until it is interrupted, and prints a URI for each. Without names it serves all active thin devices.",
    )
    .argument("[name...]", "mapped devices; the first is what a client gets that names none")
    .addOption(new Option("--nbd <address>", "where: unix:PATH, HOST:PORT or :PORT; default a socket in the run dir"))
    .option("--read-only", "refuse writes")
    .addOption(
      new Option(
        "--run <cmd>",
        "serve for as long as this shell command runs, with $uri and $unixsocket; its status is ours",
      ),
    )
    .addOption(
      new Option("--max-connections <n>", "clients at a time").argParser(countOf("connections", { min: 1, max: 4096 })),
    )
    .addOption(
      new Option(
        "--tls-certificates <dir>",
        "TLS only, with server-cert.pem, server-key.pem and ca-cert.pem of this folder",
      ),
    )
    .addOption(new Option("--tls-psk <file>", "TLS only, with the keys of this file, lines USER:HEXKEY"))
    .option("--tls-verify-peer", "with certificates: only clients whose certificate ca-cert.pem vouches for")
    .action((names: readonly string[], options: ServeOptions) => serve(context, names, options));
}

async function serve(context: Context, names: readonly string[], options: ServeOptions): Promise<void> {
  if (options.tlsVerifyPeer === true && options.tlsCertificates === undefined) {
    throw new UsageError("serve: --tls-verify-peer without --tls-certificates", {
      hint: "give the folder with ca-cert.pem",
    });
  }
  const { EXPORT_KIND, exportOfService, parseListenAddress } = await nbdExports();
  const address = options.nbd === undefined ? undefined : parseListenAddress(options.nbd);
  const interrupt = context.takeInterrupt();
  const usesTls = options.tlsCertificates !== undefined || options.tlsPsk !== undefined;
  const host = await context.daemonHost();
  const service = await host.startService({
    kind: EXPORT_KIND,
    options: {
      devices: names,
      ...defined({ address, readOnly: options.readOnly, maxConnections: options.maxConnections }),
      ...(usesTls
        ? {
            tls: defined({
              certificates: options.tlsCertificates,
              psk: options.tlsPsk,
              verifiesPeer: options.tlsVerifyPeer,
            }),
          }
        : {}),
    },
  });
  const info = exportOfService(service)!;
  const ended = host.waitService(service.name);
  ended.catch(() => undefined);
  if (options.run !== undefined) {
    const status = await runWith(context, options.run, info, interrupt);
    await host.stopService(service.name);
    return context.exitWith(status);
  }
  if (context.globals.json) context.json({ export: info });
  else context.lines(info.uris);
  const stop = () => void host.stopService(service.name).catch(() => undefined);
  interrupt.addEventListener("abort", stop, { once: true });
  if (interrupt.aborted) stop();
  try {
    await ended;
  } finally {
    interrupt.removeEventListener("abort", stop);
  }
}

function runWith(context: Context, script: string, info: ExportInfo, interrupt: AbortSignal): Promise<number> {
  const env = { uri: info.uris[0]!, unixsocket: info.socket ?? "" };
  return runShell(script, { env, ...context.streams, signal: interrupt });
}
