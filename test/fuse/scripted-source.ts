/** A FUSE server without a kernel: requests are given by the test, replies are kept. */
import { REPLY_HEADER, REQUEST_HEADER, TRANSFER_IN, WRITE_DATA_AT } from "../../src/fuse/protocol.js";
import type { RequestHandler, RequestSource } from "../../src/fuse/request-source.js";
import { FuseServer, REQUEST_BYTES } from "../../src/fuse/server.js";

export interface Reply {
  readonly unique: number;
  readonly error: number;
  readonly body: Uint8Array;
}

export class ScriptedSource implements RequestSource {
  readonly replies: Reply[] = [];
  readonly #waiting = new Map<number, (reply: Reply) => void>();
  readonly #logged: string[] = [];
  #handler: RequestHandler | undefined;
  #unique = 2;
  readonly #common = Buffer.alloc(REQUEST_BYTES);
  isClosed = false;

  readonly channel = {
    receive: () => 0,
    send: (buffer: Uint8Array, length: number) => {
      const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
      if (REPLY_HEADER.get.len(view) !== length)
        throw new Error(`a reply of ${length} bytes with another length in it`);
      const reply = {
        unique: view.getUint32(8, true),
        error: view.getInt32(4, true),
        body: buffer.slice(REPLY_HEADER.size, length),
      };
      if (reply.error !== 0 && reply.unique !== 0 && length !== REPLY_HEADER.size)
        throw new Error("an error with a body");
      this.replies.push(reply);
      this.#waiting.get(reply.unique)?.(reply);
      this.#waiting.delete(reply.unique);
    },
  };

  serve(): FuseServer {
    const server = new FuseServer({ source: this, log: (line) => this.#logged.push(line) });
    server.start();
    return server;
  }

  get logged(): readonly string[] {
    return this.#logged;
  }

  start(handler: RequestHandler): void {
    this.#handler = handler;
  }

  close(): void {
    this.isClosed = true;
  }

  /** Hands a message over as it is. */
  give(message: Uint8Array, isOurs = false): void {
    const { handle, nextBuffer } = this.#handler!;
    if (!isOurs) {
      // One buffer for all, as the event loop has it: whoever needs the bytes later has to copy them.
      this.#common.set(message);
      handle.call(this.#handler, this.#common, message.length, false);
      this.#common.fill(0xee);
      return;
    }
    const buffer = nextBuffer.call(this.#handler);
    buffer.set(message);
    handle.call(this.#handler, buffer, message.length, true);
  }

  ask(opcode: number, node: number, body: Uint8Array = new Uint8Array(0), isOurs = false): Promise<Reply> {
    const unique = this.#unique;
    this.#unique += 2;
    return new Promise((resolve) => {
      this.#waiting.set(unique, resolve);
      this.give(messageOf(opcode, { node, unique, body }), isOurs);
    });
  }
}

export function messageOf(
  opcode: number,
  { node, unique, body }: { readonly node: number; readonly unique: number; readonly body: Uint8Array },
): Uint8Array {
  const message = new Uint8Array(REQUEST_HEADER.size + body.length);
  const uniqueBytes = new Uint8Array(8);
  new DataView(uniqueBytes.buffer).setUint32(0, unique, true);
  REQUEST_HEADER.write(new DataView(message.buffer), {
    len: message.length,
    opcode,
    unique: uniqueBytes,
    nodeid: node,
    uid: 0,
    gid: 0,
    pid: 1,
    totalExtlen: 0,
    padding: 0,
  });
  message.set(body, REQUEST_HEADER.size);
  return message;
}

/** Body of READ, or of WRITE with its data. */
export function transferBody(offset: number, data: number | Uint8Array): Uint8Array {
  const size = typeof data === "number" ? data : data.length;
  const body = new Uint8Array(TRANSFER_IN.size + (typeof data === "number" ? 0 : size));
  TRANSFER_IN.write(new DataView(body.buffer), {
    fh: 0,
    offset,
    size,
    transferFlags: 0,
    lockOwner: new Uint8Array(8),
    flags: 0,
    padding: 0,
  });
  if (typeof data !== "number") body.set(data, WRITE_DATA_AT - REQUEST_HEADER.size);
  return body;
}
