/** As much of an NBD client as it takes to write and flush: unix socket, fixed newstyle, simple replies. Source: the protocol's text. */
import { connect, type Socket } from "node:net";

const NBD_OPT_GO = 7;
const NBD_REP_ACK = 1;
const REQUEST_MAGIC = 0x25609513;
const REPLY_MAGIC = 0x67446698;
const WRITE = 1;
const FLUSH = 3;

export class NbdWriter {
  readonly #socket: Socket;
  #bytes = Buffer.alloc(0);
  #wanted: { readonly count: number; readonly give: (bytes: Buffer) => void } | undefined;
  readonly #replies = new Map<bigint, (error: Error | undefined) => void>();
  #next = 1n;
  #failure: Error | undefined;
  readonly closed: Promise<void>;

  static async connect(path: string, name: string): Promise<NbdWriter> {
    const socket = await new Promise<Socket>((resolve, reject) => {
      const made = connect({ path }, () => resolve(made));
      made.once("error", reject);
    });
    const writer = new NbdWriter(socket);
    await writer.#handshake(name);
    void writer.#readReplies();
    return writer;
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      this.#give();
    });
    socket.on("error", () => undefined);
    this.closed = new Promise((resolve) =>
      socket.once("close", () => {
        this.#failure = new Error("the server has gone");
        for (const answer of this.#replies.values()) answer(this.#failure);
        resolve();
      }),
    );
  }

  write(offset: number, bytes: Buffer): Promise<void> {
    return this.#request(WRITE, offset, bytes.length, bytes);
  }

  flush(): Promise<void> {
    return this.#request(FLUSH, 0, 0);
  }

  end(): void {
    this.#socket.destroy();
  }

  #request(type: number, offset: number, length: number, payload?: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) return reject(this.#failure);
      const handle = this.#next++;
      this.#replies.set(handle, (error) => (error === undefined ? resolve() : reject(error)));
      const head = Buffer.alloc(28);
      head.writeUInt32BE(REQUEST_MAGIC, 0);
      head.writeUInt16BE(type, 6);
      head.writeBigUInt64BE(handle, 8);
      head.writeBigUInt64BE(BigInt(offset), 16);
      head.writeUInt32BE(length, 24);
      this.#socket.write(payload === undefined ? head : Buffer.concat([head, payload]));
    });
  }

  async #handshake(name: string): Promise<void> {
    const greeting = await this.#take(18);
    if (greeting.subarray(0, 16).toString("latin1") !== "NBDMAGICIHAVEOPT") throw new Error("no NBD server");
    const flags = Buffer.alloc(4);
    flags.writeUInt32BE(3);
    const option = Buffer.alloc(16 + 4 + name.length + 2);
    option.write("IHAVEOPT", 0, "latin1");
    option.writeUInt32BE(NBD_OPT_GO, 8);
    option.writeUInt32BE(4 + name.length + 2, 12);
    option.writeUInt32BE(name.length, 16);
    option.write(name, 20);
    this.#socket.write(Buffer.concat([flags, option]));
    for (;;) {
      const head = await this.#take(20);
      const type = head.readUInt32BE(12);
      await this.#take(head.readUInt32BE(16));
      if (type === NBD_REP_ACK) return;
      if (type >= 2 ** 31) throw new Error(`refused with ${type}`);
    }
  }

  async #readReplies(): Promise<void> {
    for (;;) {
      const reply = await this.#take(16);
      if (reply.readUInt32BE(0) !== REPLY_MAGIC) throw new Error("not a simple reply");
      const handle = reply.readBigUInt64BE(8);
      const error = reply.readUInt32BE(4);
      const answer = this.#replies.get(handle);
      this.#replies.delete(handle);
      answer?.(error === 0 ? undefined : new Error(`errno ${error}`));
    }
  }

  #take(count: number): Promise<Buffer> {
    return new Promise((give) => {
      this.#wanted = { count, give };
      this.#give();
    });
  }

  #give(): void {
    const wanted = this.#wanted;
    if (wanted === undefined || this.#bytes.length < wanted.count) return;
    this.#wanted = undefined;
    const taken = this.#bytes.subarray(0, wanted.count);
    this.#bytes = this.#bytes.subarray(wanted.count);
    wanted.give(taken);
  }
}
