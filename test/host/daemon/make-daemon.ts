/** A daemon in this process with a folder of its own, a service that only holds a device, and hosts that are connected. */
import { join } from "node:path";
import { onTestFinished } from "vitest";
import type { Hold } from "../../../src/device-registry/index.js";
import { Daemon, type DaemonOptions } from "../../../src/host/daemon/daemon.js";
import { connectHost } from "../../../src/host/daemon/rpc-host.js";
import { type ServiceKind, serviceKind } from "../../../src/host/daemon/services.js";
import type { Host } from "../../../src/index.js";
import { temporaryFolder } from "../../support/make-folder.js";

export interface TestDaemon {
  readonly daemon: Daemon;
  readonly folder: string;
  readonly logged: string[];
  /** Devices that services of kind `hold` have open, by the service's name. */
  readonly holds: Map<string, Hold>;
  connect(options?: { readonly lockTimeoutMs?: number; readonly log?: (line: string) => void }): Promise<Host>;
  /** Holds a device as a service of this host does. */
  hold(host: Host, device: string): Promise<Hold>;
}

export async function makeDaemon(
  options: Partial<DaemonOptions> & { readonly folder?: string } = {},
): Promise<TestDaemon> {
  const folder = options.folder ?? temporaryFolder();
  const directories = { stateDir: join(folder, "state"), runDir: join(folder, "run") };
  const logged: string[] = [];
  const holds = new Map<string, Hold>();
  const daemon = await Daemon.start({
    ...directories,
    version: "test",
    lockTimeoutMs: 2000,
    log: (line) => logged.push(line),
    kinds: [serviceKind(holdKind(holds))],
    ...options,
  });
  const hosts: Host[] = [];
  onTestFinished(async () => {
    for (const host of hosts) await host.close();
    await daemon.stop();
  });
  const made: TestDaemon = {
    daemon,
    folder,
    logged,
    holds,
    async connect(more = {}) {
      const wantsLog = more.log !== undefined;
      const host = await connectHost({ ...directories, version: "test", cwd: folder, wantsLog, ...more });
      if (host === undefined) throw new Error("nobody answers");
      hosts.push(host);
      return host;
    },
    async hold(host, device) {
      const { name } = await host.startService({ kind: "hold", options: { device } });
      return holds.get(name)!;
    },
  };
  return made;
}

function holdKind(holds: Map<string, Hold>): ServiceKind<{ readonly device: string }> {
  return {
    kind: "hold",
    parse: (options) => options as { readonly device: string },
    async start(context, { device }) {
      const hold = await context.hold(device, { what: "held by a test", hint: "stop the test" });
      holds.set(context.name, hold);
      return {
        describe: () => ({ device: hold.name, sizeBytes: hold.device.sizeBytes }),
        async stop() {
          holds.delete(context.name);
          await hold.device.flush();
          await hold[Symbol.asyncDispose]();
        },
      };
    },
  };
}
