/**
 * NBD URIs: `nbd://HOST[:PORT]/NAME`, `nbd+unix:///NAME?socket=PATH`, and `nbds…` for TLS. For TLS there may be
 * `tls-certificates=FOLDER` or `tls-psk-file=FILE`, and the user of the key before the host. Source: the NBD URI specification.
 */
import { isAbsolute } from "node:path";
import { messageOf, StateError } from "../errors/index.js";
import { DEFAULT_PORT, MAX_NAME_BYTES } from "./protocol.js";

export type NbdAddress =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

export interface NbdUri {
  readonly address: NbdAddress;
  readonly exportName: string;
  readonly isEncrypted: boolean;
  readonly user?: string;
  readonly certificates?: string;
  readonly psk?: string;
}

const SCHEME = /^nbds?(?:\+(?:unix|tcp))?:/;
/** TLS, transport, user, host, port, name, parameters. */
const FORM =
  /^nbd(s?)(?:\+(unix|tcp))?:\/\/(?:([^/@?]*)@)?(\[[^\]]*\]|[^:/?]*)(?::(\d{1,5}))?(?:\/([^?]*))?(?:\?(.*))?$/;

export function isNbdUri(text: string): boolean {
  return SCHEME.test(text);
}

/** @throws StateError EINVAL */
export function parseNbdUri(text: string): NbdUri {
  const refuse = (reason: string) =>
    new StateError("EINVAL", `'${text}': ${reason}`, {
      hint: "nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH",
    });
  if (!SCHEME.test(text)) throw refuse("is not an NBD URI");
  const found = FORM.exec(text);
  if (found === null) throw refuse("is malformed");
  const [, tls, transport, userText = "", hostText = "", portText, nameText = "", query = ""] = found;
  const exportName = decode(nameText, refuse);
  const user = decode(userText, refuse);
  if (Buffer.byteLength(exportName) > MAX_NAME_BYTES) throw refuse(`the name is longer than ${MAX_NAME_BYTES} bytes`);
  const parameters = new Map<string, string>();
  for (const part of query.split("&")) {
    const [key = "", ...rest] = part.split("=");
    // In a path a plus sign is a plus sign.
    if (key !== "") parameters.set(key, decode(rest.join("="), refuse));
  }
  const folder = parameters.get("tls-certificates");
  const psk = parameters.get("tls-psk-file");
  const common = {
    exportName,
    isEncrypted: tls === "s",
    ...(user === "" ? {} : { user }),
    ...(folder === undefined ? {} : { certificates: folder }),
    ...(psk === undefined ? {} : { psk }),
  };
  if (transport === "unix") {
    const path = parameters.get("socket");
    if (path === undefined || path === "") throw refuse("names no socket");
    if (!isAbsolute(path)) throw refuse(`socket '${path}' is not an absolute path`);
    return { address: { kind: "unix", path }, ...common };
  }
  const host = hostText.replace(/^\[(.*)\]$/, "$1");
  const port = portText === undefined ? DEFAULT_PORT : Number(portText);
  if (host === "") throw refuse("names no host");
  if (port > 65535) throw refuse(`${portText} is no port`);
  return { address: { kind: "tcp", host, port }, ...common };
}

function decode(text: string, refuse: (reason: string) => Error): string {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    throw refuse(messageOf(error));
  }
}

export function formatNbdUri({ address, exportName, isEncrypted, user, certificates, psk }: NbdUri): string {
  const scheme = isEncrypted ? "nbds" : "nbd";
  const name = encodeURIComponent(exportName);
  const parameters = [
    ...(address.kind === "unix" ? [`socket=${encodePath(address.path)}`] : []),
    ...(certificates === undefined ? [] : [`tls-certificates=${encodePath(certificates)}`]),
    ...(psk === undefined ? [] : [`tls-psk-file=${encodePath(psk)}`]),
  ];
  const query = parameters.length === 0 ? "" : `?${parameters.join("&")}`;
  const who = user === undefined ? "" : `${encodeURIComponent(user)}@`;
  if (address.kind === "unix") return `${scheme}+unix://${who}/${name}${query}`;
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  const port = address.port === DEFAULT_PORT ? "" : `:${address.port}`;
  return `${scheme}://${who}${host}${port}/${name}${query}`;
}

/** Slashes stay readable. */
function encodePath(path: string): string {
  return path.split("/").map(encodeURIComponent).join("/");
}
