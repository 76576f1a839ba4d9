/** A connection to a server, up to the moment where requests begin, and its end. */
import { connect as connectSocket, type Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { codeOf, IoError, messageOf, StateError, UdmError } from "../../errors/index.js";
import { CMD, REQUEST, REQUEST_MAGIC, viewOf } from "../protocol.js";
import { clientTlsOptions, nodeTls } from "../tls.js";
import { formatNbdUri, type NbdUri } from "../uri.js";
import { ClientHandshake, type Negotiated } from "./handshake.js";

export interface Link {
  readonly socket: Socket;
  readonly negotiated: Negotiated;
}

const CONNECT_MS = 30_000;

export function sayGoodbye(socket: Socket): void {
  const bytes = new Uint8Array(REQUEST.size);
  const view = viewOf(bytes);
  view.setUint32(0, REQUEST_MAGIC);
  view.setUint16(REQUEST.at.type, CMD.disconnect);
  socket.end(bytes);
  socket.destroySoon();
}

/** Connects, and goes through the handshake. */
export async function openLink(
  uri: NbdUri,
  options: { readonly connectMs?: number },
): Promise<{ readonly link: Link; readonly rest: Uint8Array }> {
  const name = formatNbdUri(uri);
  const { address } = uri;
  const host = address.kind === "tcp" ? address.host : "localhost";
  const tls = uri.isEncrypted ? clientTlsOptions(uri, { user: uri.user, host }) : undefined;
  const plain =
    address.kind === "unix"
      ? connectSocket({ path: address.path })
      : connectSocket({ host: address.host, port: address.port, noDelay: true, keepAlive: true });
  let socket: Socket | TLSSocket = plain;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => fail(new IoError("ETIMEDOUT", `${name}: the server does not answer`)),
      options.connectMs ?? CONNECT_MS,
    );
    const fail = (error: unknown) => {
      clearTimeout(timer);
      socket.destroy();
      plain.destroy();
      reject(codeOf(error) === undefined || !(error instanceof Error) ? error : connectFailure(name, error));
    };
    const handshake = new ClientHandshake({ exportName: uri.exportName, usesTls: tls !== undefined, server: name });
    const carryOut = (steps: ReturnType<ClientHandshake["push"]>) => {
      for (const step of steps) {
        if (step.kind === "send") socket.write(step.bytes);
        else if (step.kind === "tls") {
          plain.removeAllListeners("data");
          socket = nodeTls().connect({ socket: plain, ...tls! }, () => {
            socket.on("data", take);
            carryOut(handshake.encrypted());
          });
          socket.on("error", fail);
          socket.on("close", closed);
        } else {
          clearTimeout(timer);
          socket.removeAllListeners("data");
          socket.removeAllListeners("close");
          socket.on("error", () => {});
          resolve({ link: { socket, negotiated: step.negotiated }, rest: step.rest });
        }
      }
    };
    const take = (bytes: Uint8Array) => {
      try {
        carryOut(handshake.push(bytes));
      } catch (error) {
        fail(error);
      }
    };
    const closed = () => fail(new IoError("EIO", `${name}: the server closed the connection during the handshake`));
    plain.on("data", take);
    plain.on("error", fail);
    plain.on("close", closed);
  });
}

function connectFailure(name: string, error: Error): Error {
  switch (codeOf(error)) {
    case "ECONNREFUSED":
    case "ENOENT":
    case "ENOTFOUND":
    case "EHOSTUNREACH":
    case "ENETUNREACH":
      return new IoError("EIO", `${name}: nobody answers there: ${messageOf(error)}`, {
        hint: "is the server running, and the address right?",
        cause: error,
      });
    case "EACCES":
      return new StateError("EACCES", `${name}: the socket may not be used: ${messageOf(error)}`, { cause: error });
    default:
      return error instanceof UdmError ? error : new IoError("EIO", `${name}: ${messageOf(error)}`, { cause: error });
  }
}
