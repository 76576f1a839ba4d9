/**
 * TLS for both sides: certificates (x509), in a folder with the names that other NBD programs use, or a key that both
 * sides know (PSK), in a file of lines `USER:HEXKEY`.
 */
import { readFileSync } from "node:fs";
import { isIP, type Socket } from "node:net";
import { join } from "node:path";
import type { SecureContext, SecureContextOptions, TLSSocket, TlsOptions as TlsServerOptions } from "node:tls";
import { messageOf, StateError } from "../errors/index.js";
import { systemError } from "../io/index.js";

export interface TlsOptions {
  /** Folder with `ca-cert.pem`, and `server-cert.pem` and `server-key.pem`, or `client-…`. */
  readonly certificates?: string;
  /** File with lines `USER:HEXKEY`. */
  readonly psk?: string;
  /** Server: clients must show a certificate of that authority. */
  readonly verifiesPeer?: boolean;
}

/** Ciphers of a shared key; node speaks them up to TLS 1.2. */
export const PSK_CIPHERS =
  "ECDHE-PSK-AES128-CBC-SHA256:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:PSK-AES128-GCM-SHA256";
const MAX_PSK_BYTES = 64;
const HANDSHAKE_MS = 30_000;

export interface ServerTls {
  /** The server's side of the handshake on a connection. Either is called once; the connection is theirs to close. */
  accept(plain: Socket, secure: (socket: TLSSocket) => void, failed: (error: Error) => void): void;
}

/** @throws StateError ENOENT, EACCES, EINVAL */
export function openServerTls(options: TlsOptions): ServerTls {
  const verifiesPeer = options.verifiesPeer ?? false;
  const folder = options.certificates;
  if (folder === undefined && options.psk === undefined) {
    throw new StateError("EINVAL", "TLS without certificates or keys", {
      hint: "give a folder of certificates, or a file of keys",
    });
  }
  const keys = options.psk === undefined ? undefined : readKeys(options.psk);
  const psk =
    keys === undefined
      ? {}
      : {
          ciphers: folder === undefined ? PSK_CIPHERS : `HIGH:!aNULL:${PSK_CIPHERS}`,
          maxVersion: "TLSv1.2" as const,
          pskCallback: (_socket: TLSSocket, identity: string) => keys.get(identity) ?? null,
        };
  const certificates =
    folder === undefined
      ? {}
      : {
          cert: readPart(folder, "server-cert.pem"),
          key: readPart(folder, "server-key.pem"),
          ...(verifiesPeer ? { ca: readPart(folder, "ca-cert.pem") } : {}),
        };
  const settings: TlsServerOptions = {
    ...certificates,
    ...psk,
    requestCert: verifiesPeer,
    // With a shared key there is no certificate to be verified, and none is asked for.
    rejectUnauthorized: verifiesPeer,
    handshakeTimeout: HANDSHAKE_MS,
  };
  makeContext(settings, folder ?? options.psk!);
  return {
    accept(plain, secure, failed) {
      // One that listens nowhere: it is handed the connection.
      const server = nodeTls().createServer(settings);
      server.once("secureConnection", secure);
      server.once("tlsClientError", failed);
      server.emit("connection", plain);
    },
  };
}

/** What a client needs to be let in. @throws StateError ENOENT, EACCES, EINVAL */
export function clientTlsOptions(
  options: TlsOptions,
  { user, host }: { readonly user: string | undefined; readonly host: string },
): {
  readonly secureContext: SecureContext;
  readonly servername?: string;
  readonly checkServerIdentity?: () => undefined;
  readonly pskCallback?: () => { readonly psk: Buffer; readonly identity: string };
} {
  if (options.psk !== undefined) {
    const keys = readKeys(options.psk);
    const identity = user ?? [...keys.keys()][0]!;
    const psk = keys.get(identity);
    if (psk === undefined) {
      throw new StateError("EINVAL", `${options.psk}: has no key of user '${identity}'`, {
        hint: "lines are USER:HEXKEY",
      });
    }
    return {
      secureContext: makeContext({ ciphers: PSK_CIPHERS, maxVersion: "TLSv1.2" }, options.psk),
      checkServerIdentity: () => undefined,
      pskCallback: () => ({ psk, identity }),
    };
  }
  const folder = options.certificates;
  const name = isIP(host) === 0 ? { servername: host } : {};
  if (folder === undefined) return { secureContext: nodeTls().createSecureContext(), ...name };
  const cert = tryReadPart(folder, "client-cert.pem");
  const key = tryReadPart(folder, "client-key.pem");
  return {
    secureContext: makeContext(
      { ca: readPart(folder, "ca-cert.pem"), ...(cert === undefined || key === undefined ? {} : { cert, key }) },
      folder,
    ),
    ...name,
  };
}

/** Loaded with the first connection that wants it. */
export function nodeTls(): typeof import("node:tls") {
  return process.getBuiltinModule("node:tls");
}

function makeContext(options: SecureContextOptions, where: string): SecureContext {
  try {
    return nodeTls().createSecureContext(options);
  } catch (error) {
    throw new StateError("EINVAL", `${where}: no usable key and certificate: ${messageOf(error)}`, { cause: error });
  }
}

function readPart(folder: string, name: string): Buffer {
  const path = join(folder, name);
  try {
    return readFileSync(path);
  } catch (error) {
    throw systemError(error, path, "certificates are a folder with ca-cert.pem, server-cert.pem, server-key.pem");
  }
}

function tryReadPart(folder: string, name: string): Buffer | undefined {
  try {
    return readFileSync(join(folder, name));
  } catch {
    return undefined;
  }
}

/** User and key of each line. */
function readKeys(path: string): ReadonlyMap<string, Buffer> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw systemError(error, path);
  }
  const keys = new Map<string, Buffer>();
  text.split("\n").forEach((line, index) => {
    if (line.trim() === "" || line.startsWith("#")) return;
    const found = /^([^:]+):((?:[0-9a-fA-F]{2})+)\s*$/.exec(line);
    const key = found === null ? undefined : Buffer.from(found[2]!, "hex");
    if (found === null || key === undefined || key.length > MAX_PSK_BYTES) {
      throw new StateError("EINVAL", `${path}: line ${index + 1} is not USER:HEXKEY`, {
        hint: "psktool --username USER --pskfile FILE makes one",
      });
    }
    keys.set(found[1]!, key);
  });
  if (keys.size === 0) throw new StateError("EINVAL", `${path}: holds no key`, { hint: "lines are USER:HEXKEY" });
  return keys;
}
