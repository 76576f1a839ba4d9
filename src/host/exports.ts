/**
 * NBD exports: mapped devices that programs read and write through a socket, as a service of the daemon. The devices are
 * held for as long as they are exported; suspends, new tables and snapshots happen under them while requests wait.
 */
import { isAbsolute, join, resolve } from "node:path";
import { compareNames, type DeviceRecord, type Hold } from "../device-registry/index.js";
import { StateError } from "../errors/index.js";
import {
  DeviceExport,
  type NbdAddress,
  NbdServer,
  openServerTls,
  type SharedExtent,
  type TlsOptions,
} from "../nbd/index.js";
import { ThinDevice } from "../thin/index.js";
import type { Service, ServiceContext, ServiceKind } from "./daemon/services.js";
import type { ServiceInfo } from "./host.js";

export const EXPORT_KIND = "nbd";

export interface ExportRequest {
  /** Names of mapped devices; none: all thin devices that are active. The first is what clients get that name none. */
  readonly devices: readonly string[];
  /** Where to listen; default a socket in the run dir. */
  readonly address?: NbdAddress;
  readonly readOnly?: boolean;
  readonly tls?: TlsOptions;
  /** How many clients at a time. */
  readonly maxConnections?: number;
}

export interface ExportInfo {
  readonly service: string;
  readonly devices: readonly string[];
  /** One for each device. */
  readonly uris: readonly string[];
  /** Path of the socket; undefined for TCP. */
  readonly socket: string | undefined;
  readonly readOnly: boolean;
  readonly connections: number;
}

export function exportKind(): ServiceKind<ExportRequest> {
  return {
    kind: EXPORT_KIND,
    parse: parseExportRequest,
    start: (context, request) => DeviceExports.start(context, request),
  };
}

class DeviceExports implements Service {
  readonly #holds: readonly Hold[];
  /** As they were when the export began; devices may be renamed meanwhile. */
  readonly #names: readonly string[];
  readonly #server: NbdServer;
  readonly #request: ExportRequest;

  static async start(context: ServiceContext, request: ExportRequest): Promise<DeviceExports> {
    const tls = request.tls === undefined ? undefined : openServerTls(resolvedTls(request.tls, context.cwd));
    const names = request.devices.length > 0 ? request.devices : await activeThins(context);
    const holds: Hold[] = [];
    try {
      for (const name of names) {
        holds.push(
          await context.hold(name, {
            what: "exported over NBD",
            hint: `udm daemon status shows by whom; end it first`,
          }),
        );
      }
      const exportNames = holds.map(({ name }) => name);
      const server = await NbdServer.listen({
        address: addressOf(request, context),
        exports: holds.map((hold) => exportOf(hold, request.readOnly === true)),
        ...(tls === undefined ? {} : { tls }),
        ...(request.maxConnections === undefined ? {} : { maxConnections: request.maxConnections }),
        log: (line) => context.log(line),
        onFailure: (error) => context.ended(error),
      });
      return new DeviceExports(holds, exportNames, server, request);
    } catch (error) {
      await releaseAll(holds);
      throw error;
    }
  }

  private constructor(holds: readonly Hold[], names: readonly string[], server: NbdServer, request: ExportRequest) {
    this.#holds = holds;
    this.#names = names;
    this.#server = server;
    this.#request = request;
  }

  describe() {
    const { address } = this.#server;
    return {
      devices: this.#holds.map(({ name }) => name),
      uris: this.#names.map((name) => this.#server.uri(name)),
      ...(address.kind === "unix" ? { socket: address.path } : {}),
      readOnly: this.#request.readOnly === true,
      connections: this.#server.connections,
    };
  }

  /** What clients wrote is durable when it resolves. */
  async stop(): Promise<void> {
    await this.#server.close();
    const failures: unknown[] = [];
    for (const { device } of this.#holds) {
      if (!device.isSuspended) await device.flush().catch((error: unknown) => failures.push(error));
    }
    await releaseAll(this.#holds);
    if (failures.length > 0) throw failures[0];
  }
}

async function releaseAll(holds: readonly Hold[]): Promise<void> {
  for (const hold of holds) await hold[Symbol.asyncDispose]();
}

function exportOf(hold: Hold, readOnly: boolean): DeviceExport {
  const { device } = hold;
  return new DeviceExport(device, {
    name: hold.name,
    readOnly,
    sharing: async (offset, length) => {
      const [segment] = device.segments;
      const thin = device.segments.length === 1 ? segment?.target.device : undefined;
      if (thin instanceof ThinDevice) return thin.sharing(offset, length);
      // What is no thin device shares nothing that we know of.
      const extents = await device.extents(offset, length);
      return extents.map(({ kind, ...each }): SharedExtent => ({ ...each, kind: kind === "zeros" ? "hole" : "own" }));
    },
  });
}

async function activeThins(context: ServiceContext): Promise<readonly string[]> {
  const isThin = ({ live }: DeviceRecord) => live?.length === 1 && live[0]!.type === "thin";
  const names = await context.core.own.view((session) =>
    session.registry
      .records()
      .filter(isThin)
      .map(({ name }) => name),
  );
  if (names.length > 0) return [...names].sort(compareNames);
  throw new StateError("ENOENT", "no thin device is active", {
    hint: "udm thin activate makes one a device, or name one",
  });
}

function addressOf({ address }: ExportRequest, { name, runDir, cwd }: ServiceContext): NbdAddress {
  if (address === undefined) return { kind: "unix", path: join(runDir, `${name}.sock`) };
  return address.kind === "unix" ? { kind: "unix", path: resolve(cwd, address.path) } : address;
}

function resolvedTls(tls: TlsOptions, cwd: string): TlsOptions {
  return {
    ...tls,
    ...(tls.certificates === undefined ? {} : { certificates: resolve(cwd, tls.certificates) }),
    ...(tls.psk === undefined ? {} : { psk: resolve(cwd, tls.psk) }),
  };
}

type Given = Readonly<Record<string, unknown>>;

/** @throws StateError EINVAL */
export function parseExportRequest(options: unknown): ExportRequest {
  const { devices, address, readOnly, tls, maxConnections } = objectOf(options, "the request");
  if (!Array.isArray(devices) || !devices.every((each) => typeof each === "string")) {
    throw invalid("'devices' is no list of names");
  }
  if (devices.includes("")) throw invalid("a name is empty");
  const twice = devices.find((each, index) => devices.indexOf(each) !== index);
  if (twice !== undefined) throw invalid(`'${twice}' is named twice`);
  if (readOnly !== undefined && typeof readOnly !== "boolean") throw invalid("'readOnly' is neither true nor false");
  if (maxConnections !== undefined && (!Number.isInteger(maxConnections) || Number(maxConnections) < 1)) {
    throw invalid("'maxConnections' is no number above 0");
  }
  return {
    devices: devices as readonly string[],
    ...(address === undefined ? {} : { address: parseAddress(objectOf(address, "the address")) }),
    ...(readOnly === undefined ? {} : { readOnly }),
    ...(tls === undefined ? {} : { tls: parseTls(objectOf(tls, "TLS")) }),
    ...(maxConnections === undefined ? {} : { maxConnections: maxConnections as number }),
  };
}

function parseAddress({ kind, path, host, port }: Given): NbdAddress {
  if (kind === "unix" && typeof path === "string" && path !== "") return { kind, path };
  if (
    kind === "tcp" &&
    typeof host === "string" &&
    Number.isInteger(port) &&
    Number(port) >= 0 &&
    Number(port) < 65536
  ) {
    return { kind, host, port: port as number };
  }
  throw invalid("the address is neither a socket nor a host and port");
}

function parseTls({ certificates, psk, verifiesPeer }: Given): TlsOptions {
  for (const each of [certificates, psk]) {
    if (each !== undefined && typeof each !== "string") throw invalid("TLS wants paths");
  }
  if (verifiesPeer !== undefined && typeof verifiesPeer !== "boolean")
    throw invalid("'verifiesPeer' is neither true nor false");
  return {
    ...(certificates === undefined ? {} : { certificates: certificates as string }),
    ...(psk === undefined ? {} : { psk: psk as string }),
    ...(verifiesPeer === undefined ? {} : { verifiesPeer }),
  };
}

function objectOf(value: unknown, what: string): Given {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalid(`${what} is no object`);
  return value as Given;
}

function invalid(why: string): StateError {
  return new StateError("EINVAL", `serve: ${why}`, { hint: "udm serve NAME --nbd unix:PATH" });
}

/** `unix:PATH` or `HOST:PORT`, `[ADDRESS]:PORT`, `:PORT`. @throws StateError EINVAL */
export function parseListenAddress(text: string): NbdAddress {
  if (text.startsWith("unix:")) {
    const path = text.slice("unix:".length);
    if (path !== "") return { kind: "unix", path };
  }
  const found = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(text);
  const port = Number(found?.[3]);
  if (found !== null && port < 65536) return { kind: "tcp", host: found[1] ?? (found[2] || "localhost"), port };
  const hint = isAbsolute(text) ? `unix:${text}` : "unix:PATH, HOST:PORT, or :PORT for this machine only";
  throw new StateError("EINVAL", `'${text}' is nowhere to listen`, { hint });
}

/** What a service of this kind tells, as a typed value; undefined for one of another kind. */
export function exportOfService(service: ServiceInfo): ExportInfo | undefined {
  if (service.kind !== EXPORT_KIND) return undefined;
  const of = service.details as Readonly<Record<string, never>>;
  return {
    service: service.name,
    devices: of.devices!,
    uris: of.uris!,
    socket: of.socket,
    readOnly: of.readOnly!,
    connections: of.connections!,
  };
}
