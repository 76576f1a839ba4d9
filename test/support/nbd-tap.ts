/**
 * Between an NBD client and a server, on unix sockets: passes every byte on, and keeps account of what the server owes. A block
 * holds what was written last before a flush that was answered, or something that was sent later or was under way with it. It knows the client
 * only by what it sends, so any client can be held against the server. Source: the protocol's text.
 */
import { createHash } from "node:crypto";
import { connect, createServer, type Server, type Socket } from "node:net";

const OPT_GO = 7;
const REP_ACK = 1;
const OPTION_HEAD_BYTES = 16;
const OPTION_REPLY_BYTES = 20;
const GREETING_BYTES = 18;
const REQUEST_MAGIC = 0x25609513;
const SIMPLE_MAGIC = 0x67446698;
const STRUCTURED_MAGIC = 0x668e33ef;
const FLAG_DONE = 1;
const ERROR_BIT = 0x8000;
const COMMAND_FUA = 1;
enum Command {
  Read = 0,
  Write = 1,
  Disconnect = 2,
  Flush = 3,
  Trim = 4,
  WriteZeroes = 6,
}

/** What may be found in one block. */
interface Owed {
  /** Writes in the order in which they were sent; what a flush covered drops those before it. */
  readonly writes: Written[];
}

interface Written {
  readonly digest: string;
  /** It may have taken place or not, whatever was answered. */
  readonly isHint: boolean;
  /** Moments in the ledger; Infinity while it was not answered. */
  readonly begin: number;
  end: number;
}

interface Request {
  readonly type: number;
  readonly length: number;
  readonly written: readonly (readonly [number, Written])[];
  /** Of a flush: what had been answered when it was sent. */
  readonly covered: readonly (readonly [number, Written])[];
  hasFailed: boolean;
}

export class Ledger {
  readonly #owed = new Map<number, Owed>();
  /** Answered, and in no flush that was answered. */
  #loose: (readonly [number, Written])[] = [];
  #now = 1;
  readonly #zeros: string;
  flushes = 0;
  writes = 0;
  trims = 0;
  failures = 0;

  constructor(readonly blockBytes: number) {
    this.#zeros = digestOf(Buffer.alloc(blockBytes));
  }

  sendWrite(offset: number, bytes: Buffer): (readonly [number, Written])[] {
    this.writes++;
    return this.#each(offset, bytes.length, (at) => digestOf(bytes.subarray(at, at + this.blockBytes)), false);
  }

  sendZeros(offset: number, length: number, isHint: boolean): (readonly [number, Written])[] {
    this.trims++;
    return this.#each(offset, length, () => this.#zeros, isHint);
  }

  answered(written: readonly (readonly [number, Written])[]): void {
    const end = this.#now++;
    for (const [, each] of written) each.end = end;
    this.#loose.push(...written);
  }

  /** What a flush that is sent now will cover. */
  covered(): readonly (readonly [number, Written])[] {
    return [...this.#loose];
  }

  flushed(covered: readonly (readonly [number, Written])[]): void {
    this.flushes++;
    this.#settle(covered);
    const settled = new Set(covered.map(([, each]) => each));
    this.#loose = this.#loose.filter(([, each]) => !settled.has(each));
  }

  settle(written: readonly (readonly [number, Written])[]): void {
    this.#settle(written);
  }

  /** The state after the server was killed: what was found is what is, from now on. @returns blocks that hold what they must not */
  audit(image: Buffer): readonly number[] {
    const wrong: number[] = [];
    for (const [block, owed] of this.#owed) {
      const digest = digestOf(image.subarray(block * this.blockBytes, (block + 1) * this.blockBytes));
      if (!owed.writes.some((each) => each.digest === digest)) wrong.push(block);
      owed.writes.splice(0, owed.writes.length, { digest, isHint: false, begin: 0, end: 0 });
    }
    this.#loose = [];
    return wrong;
  }

  /** One that was written. */
  someBlock(): number {
    const [block] = this.#owed.keys();
    if (block === undefined) throw new Error("nothing was written");
    return block;
  }

  #each(offset: number, length: number, digestAt: (at: number) => string, isHint: boolean) {
    const made: (readonly [number, Written])[] = [];
    const begin = this.#now++;
    for (let at = 0; at < length; at += this.blockBytes) {
      const block = (offset + at) / this.blockBytes;
      if (!Number.isInteger(block)) throw new Error(`a request at ${offset}, not in blocks of ${this.blockBytes}`);
      let owed = this.#owed.get(block);
      if (owed === undefined) {
        // Before anything was written it reads as zeros.
        owed = { writes: [{ digest: this.#zeros, isHint: false, begin: 0, end: 0 }] };
        this.#owed.set(block, owed);
      }
      const written = { digest: digestAt(at), isHint, begin, end: Number.POSITIVE_INFINITY };
      owed.writes.push(written);
      made.push([block, written]);
    }
    return made;
  }

  /** These are durable: what was answered before they were sent cannot come back. */
  #settle(written: readonly (readonly [number, Written])[]): void {
    for (const [block, each] of written) {
      if (each.isHint) continue;
      const { writes } = this.#owed.get(block)!;
      const left = writes.filter(({ end }) => end >= each.begin);
      writes.splice(0, writes.length, ...left);
    }
  }
}

export class NbdTap {
  readonly path: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  /** Listens on `path` and connects each client to `target`. */
  static async open(options: {
    readonly path: string;
    readonly target: string;
    readonly ledger: Ledger;
  }): Promise<NbdTap> {
    const tap = new NbdTap(options);
    await new Promise<void>((resolve, reject) => {
      tap.#server.once("error", reject);
      tap.#server.listen({ path: options.path }, () => resolve());
    });
    return tap;
  }

  private constructor({
    path,
    target,
    ledger,
  }: { readonly path: string; readonly target: string; readonly ledger: Ledger }) {
    this.path = path;
    this.#server = createServer((client) => {
      const server = connect({ path: target });
      const session = new TappedSession(ledger);
      for (const [socket, other] of [
        [client, server],
        [server, client],
      ] as const) {
        this.#sockets.add(socket);
        socket.on("error", () => other.destroy());
        socket.on("close", () => other.destroy());
      }
      // A request is noted before the server can see it, an answer before the client can.
      client.on("data", (bytes: Buffer) => {
        session.fromClient(bytes);
        if (!server.destroyed) server.write(bytes);
      });
      server.on("data", (bytes: Buffer) => {
        session.fromServer(bytes);
        if (!client.destroyed) client.write(bytes);
      });
    });
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}

/** Steps of a parser: waits for so many bytes, then says what it waits for next. */
class Reader {
  #bytes: Buffer = Buffer.alloc(0);
  #wanted: number;
  #step: (bytes: Buffer) => void;

  constructor(count: number, step: (bytes: Buffer) => void) {
    this.#wanted = count;
    this.#step = step;
  }

  next(count: number, step: (bytes: Buffer) => void): void {
    this.#wanted = count;
    this.#step = step;
  }

  push(chunk: Buffer): void {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
    while (this.#bytes.length >= this.#wanted) {
      const taken = this.#bytes.subarray(0, this.#wanted);
      this.#bytes = this.#bytes.subarray(this.#wanted);
      this.#step(taken);
    }
  }
}

class TappedSession {
  readonly #ledger: Ledger;
  readonly #requests = new Map<bigint, Request>();
  readonly #client: Reader;
  readonly #server: Reader;

  constructor(ledger: Ledger) {
    this.#ledger = ledger;
    this.#client = new Reader(4, () => this.#readOption());
    this.#server = new Reader(GREETING_BYTES, () => this.#readOptionReply());
  }

  fromClient(bytes: Buffer): void {
    this.#client.push(bytes);
  }

  fromServer(bytes: Buffer): void {
    this.#server.push(bytes);
  }

  #readOption(): void {
    this.#client.next(OPTION_HEAD_BYTES, (head) => {
      const isGo = head.readUInt32BE(8) === OPT_GO;
      const goOn = () => (isGo ? this.#readRequest() : this.#readOption());
      const length = head.readUInt32BE(12);
      if (length === 0) goOn();
      else this.#client.next(length, goOn);
    });
  }

  #readOptionReply(): void {
    this.#server.next(OPTION_REPLY_BYTES, (head) => {
      const isAccepted = head.readUInt32BE(8) === OPT_GO && head.readUInt32BE(12) === REP_ACK;
      const goOn = () => (isAccepted ? this.#readReply() : this.#readOptionReply());
      const length = head.readUInt32BE(16);
      if (length === 0) goOn();
      else this.#server.next(length, goOn);
    });
  }

  #readRequest(): void {
    this.#client.next(28, (head) => {
      if (head.readUInt32BE(0) !== REQUEST_MAGIC) throw new Error("the client lost its place");
      const flags = head.readUInt16BE(4);
      const type: Command = head.readUInt16BE(6);
      const cookie = head.readBigUInt64BE(8);
      const offset = Number(head.readBigUInt64BE(16));
      const length = head.readUInt32BE(24);
      const note = (written: Request["written"], covered: Request["covered"] = []) => {
        const isFua = (flags & COMMAND_FUA) !== 0;
        this.#requests.set(cookie, { type, length, written, covered: isFua ? written : covered, hasFailed: false });
        this.#readRequest();
      };
      switch (type) {
        case Command.Write:
          return this.#client.next(length, (bytes) => note(this.#ledger.sendWrite(offset, bytes)));
        case Command.Flush:
          return note([], this.#ledger.covered());
        case Command.Trim:
          return note(this.#ledger.sendZeros(offset, length, true));
        case Command.WriteZeroes:
          return note(this.#ledger.sendZeros(offset, length, false));
        case Command.Read:
        case Command.Disconnect:
          return note([]);
      }
    });
  }

  #readReply(): void {
    this.#server.next(16, (head) => {
      const cookie = head.readBigUInt64BE(8);
      const request = this.#requests.get(cookie);
      if (request === undefined) throw new Error("an answer to nothing that was asked");
      const magic = head.readUInt32BE(0);
      if (magic === SIMPLE_MAGIC) {
        if (head.readUInt32BE(4) !== 0) request.hasFailed = true;
        const bytes = request.type === Command.Read && !request.hasFailed ? request.length : 0;
        const goOn = () => this.#answered(cookie, request);
        return bytes === 0 ? goOn() : this.#server.next(bytes, goOn);
      }
      if (magic !== STRUCTURED_MAGIC) throw new Error("the server lost its place");
      const isDone = (head.readUInt16BE(4) & FLAG_DONE) !== 0;
      if ((head.readUInt16BE(6) & ERROR_BIT) !== 0) request.hasFailed = true;
      this.#server.next(4, (rest) => {
        const goOn = () => (isDone ? this.#answered(cookie, request) : this.#readReply());
        const length = rest.readUInt32BE(0);
        if (length === 0) goOn();
        else this.#server.next(length, goOn);
      });
    });
  }

  #answered(cookie: bigint, request: Request): void {
    this.#requests.delete(cookie);
    if (request.hasFailed) this.#ledger.failures++;
    else {
      this.#ledger.answered(request.written);
      if (request.type === Command.Flush) this.#ledger.flushed(request.covered);
      else this.#ledger.settle(request.covered);
    }
    this.#readReply();
  }
}

function digestOf(bytes: Buffer): string {
  return createHash("sha1").update(bytes).digest("base64");
}
