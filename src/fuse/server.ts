/**
 * A folder of block images over /dev/fuse: one mount, one file for each device. Everything runs in the thread that made the
 * server, between other things on its event loop; so nothing in that thread may ever touch the mount synchronously.
 *
 * A request whose device can answer at once is answered before the next one is read. The others go their way as promises
 * and are answered in any order, as the kernel allows. A flush covers the writes that were answered before it.
 *
 * Names are not cached by the kernel, so that none has to be taken back; attributes are, and a growth is announced. Node
 * numbers are never used twice.
 */
import { constants } from "node:os";
import { codeOf, IoError, messageOf, mistakeText, StateError } from "../errors/index.js";
import type { Channel } from "./channel.js";
import { ImageFile, type ImageOptions } from "./image-file.js";
import {
  ATTR_OUT_HEAD,
  type Attributes,
  answerInit,
  ENTRY_OUT_HEAD,
  FALLOCATE_IN,
  folderMode,
  INIT_IN,
  INIT_OUT,
  INVAL_INODE_OUT,
  isFolderMode,
  LSEEK_IN,
  lookupName,
  NOTIFY_INVAL_INODE,
  OPCODE,
  OPEN_FLAG,
  OPEN_IN,
  OPEN_OUT,
  packFolder,
  REPLY_HEADER,
  REQUEST_HEADER,
  ROOT_NODE,
  S_IFREG,
  SEEK_DATA,
  SEEK_HOLE,
  SETATTR_IN,
  SETATTR_SIZE,
  STATFS_OUT,
  TRANSFER_IN,
  WRITE_DATA_AT,
  WRITE_OUT,
  writeAttributes,
} from "./protocol.js";
import type { RequestHandler, RequestSource } from "./request-source.js";

/** Data in one request at most. Measured: 1 MiB at a time falls out of the processor's caches on its way. */
export const MAX_TRANSFER_BYTES = 256 << 10;
/** What a buffer for requests holds; the kernel refuses smaller ones. */
export const REQUEST_BYTES = WRITE_DATA_AT + MAX_TRANSFER_BYTES;
/** Requests of a loop device under way: its queue has 128. */
const MAX_BACKGROUND = 128;
/** Attributes are good for so long: changes are announced. */
const ATTR_VALID_SECONDS = 3600;
/** Writes that wait and are smaller than this are copied; the buffer of a larger one is kept until it is answered. */
const KEEP_FROM_BYTES = 64 * 1024;
const SPARE_BUFFERS = 4;
/** Views kept for sizes that come again and again. */
const MAX_VIEWS = 64;
const ROOT_PERMISSIONS = 0o700;
const O_ACCMODE = 3;
const { ENOENT, ENOSYS, EPERM, EIO, EISDIR, ENOTDIR, EINVAL, ENXIO, ENODEV, EROFS } = constants.errno;

const REFUSED: ReadonlySet<number> = new Set([
  OPCODE.SYMLINK,
  OPCODE.MKNOD,
  OPCODE.MKDIR,
  OPCODE.UNLINK,
  OPCODE.RMDIR,
  OPCODE.RENAME,
  OPCODE.LINK,
  OPCODE.CREATE,
  OPCODE.RENAME2,
]);

export interface ServerOptions {
  readonly source: RequestSource;
  readonly log: (line: string) => void;
  /** The mount is gone: unmounted, aborted, or the device fails. */
  readonly onEnd?: (error: unknown) => void;
}

/** The answer to a write. */
interface Answer {
  readonly unique0: number;
  readonly unique1: number;
  readonly size: number;
}

/** A request that is answered later. */
interface Pending {
  readonly unique0: number;
  readonly unique1: number;
  readonly file: ImageFile;
}

export class FuseServer implements RequestHandler {
  readonly #source: RequestSource;
  readonly #channel: Channel;
  readonly #log: (line: string) => void;
  readonly #onEnd: (error: unknown) => void;
  readonly #files = new Map<number, ImageFile>();
  readonly #byName = new Map<string, ImageFile>();
  #nextNode = ROOT_NODE + 1;
  readonly #timeMs = Date.now();
  #isEnded = false;
  /** Wakes who waits for a file's requests to end. */
  #idlers: (() => void)[] = [];
  #buffer: Uint8Array = new Uint8Array(REQUEST_BYTES);
  readonly #spares: Uint8Array[] = [];
  readonly #views = new WeakMap<Uint8Array, DataView>();
  readonly #reply = new Uint8Array(REPLY_HEADER.size + MAX_TRANSFER_BYTES);
  readonly #replyView = new DataView(this.#reply.buffer);
  readonly #replyParts = new Map<number, Uint8Array>();
  /** Of files whose size the kernel is to ask for. */
  readonly #heldAnswers = new Map<ImageFile, Answer[]>();
  /** Of the request being looked at. */
  #unique0 = 0;
  #unique1 = 0;

  constructor({ source, log, onEnd }: ServerOptions) {
    this.#source = source;
    this.#channel = source.channel;
    this.#log = log;
    this.#onEnd = onEnd ?? (() => {});
  }

  /** The mount must have been made. */
  start(): void {
    this.#source.start(this);
  }

  get files(): readonly ImageFile[] {
    return [...this.#files.values()];
  }

  /** @throws StateError EEXIST, EINVAL for a name that no file can have */
  add(options: ImageOptions): ImageFile {
    const { name } = options;
    if (name === "" || name === "." || name === ".." || name.includes("/") || name.includes("\0")) {
      throw new StateError("EINVAL", `'${name}' cannot be the name of a file`);
    }
    if (this.#byName.has(name)) throw new StateError("EEXIST", `'${name}' is served already`);
    const file = new ImageFile(this.#nextNode++, options);
    this.#files.set(file.node, file);
    this.#byName.set(name, file);
    return file;
  }

  has(name: string): boolean {
    return this.#byName.has(name);
  }

  /** Requests from now on fail; resolves when those under way have ended. */
  async remove(file: ImageFile): Promise<void> {
    file.isRemoved = true;
    this.#files.delete(file.node);
    if (this.#byName.get(file.name) === file) this.#byName.delete(file.name);
    while (file.underWay > 0) await new Promise<void>((resolve) => this.#idlers.push(resolve));
  }

  /**
   * The kernel asks for the size again, if anybody looks at the file. It drops an answer when a write ends meanwhile, so
   * writes are carried out and not answered until then. @returns lets their answers go
   */
  announceSize(file: ImageFile): () => void {
    const answers: Answer[] = this.#heldAnswers.get(file) ?? [];
    this.#heldAnswers.set(file, answers);
    this.#sendInvalid(file);
    return () => {
      if (this.#heldAnswers.get(file) === answers) this.#heldAnswers.delete(file);
      for (const { unique0, unique1, size } of answers.splice(0)) {
        this.#unique0 = unique0;
        this.#unique1 = unique1;
        this.#sendWritten(file, size);
      }
    };
  }

  /** What the kernel knows of a file's size is not true any more. */
  #sendInvalid(file: ImageFile): void {
    INVAL_INODE_OUT.write(
      this.#replyView,
      { nodeid: file.node, offset: new Uint8Array(8).fill(0xff), length: 0 },
      REPLY_HEADER.size,
    );
    this.#unique0 = 0;
    this.#unique1 = 0;
    this.#send(INVAL_INODE_OUT.size, NOTIFY_INVAL_INODE);
  }

  /** Nothing is answered any more. Only after the mount was taken away. */
  close(): void {
    this.#isEnded = true;
    this.#source.close();
  }

  // --- what the source asks for ---

  nextBuffer(): Uint8Array {
    return this.#buffer;
  }

  ended(error?: unknown): void {
    this.#isEnded = true;
    this.#onEnd(error);
  }

  handle(buffer: Uint8Array, bytes: number, isOurs: boolean): boolean {
    const view = this.#viewOf(buffer);
    if (bytes < REQUEST_HEADER.size || REQUEST_HEADER.get.len(view) !== bytes) {
      this.#log(`a request of ${bytes} bytes that says it has ${bytes >= 4 ? view.getUint32(0, true) : 0}`);
      return false;
    }
    this.#unique0 = view.getUint32(8, true);
    this.#unique1 = view.getUint32(12, true);
    const opcode = REQUEST_HEADER.get.opcode(view);
    try {
      if (opcode === OPCODE.READ) {
        this.#read(view, bytes);
        return false;
      }
      if (opcode === OPCODE.WRITE) return this.#write(buffer, view, bytes, isOurs);
      this.#other(opcode, buffer, view, bytes);
    } catch (error) {
      this.#fail(error);
    }
    return false;
  }

  // --- reading and writing ---

  #read(view: DataView, bytes: number): void {
    if (bytes < REQUEST_HEADER.size + TRANSFER_IN.size) return this.#sendError(EINVAL);
    const file = this.#files.get(REQUEST_HEADER.get.nodeid(view));
    if (file === undefined) return this.#sendError(ENODEV);
    const offset = TRANSFER_IN.get.offset(view, REQUEST_HEADER.size);
    const size = file.readable(offset, TRANSFER_IN.get.size(view, REQUEST_HEADER.size));
    if (size > MAX_TRANSFER_BYTES) return this.#sendError(EINVAL);
    if (file.isWhole(offset, size) && file.tryRead(offset, this.#replyPart(size)) === size) return this.#send(size, 0);
    const reply = new Uint8Array(REPLY_HEADER.size + size);
    this.#whenDone(this.#begin(file), file.read(offset, reply.subarray(REPLY_HEADER.size)), (pending) =>
      this.#finish(pending, reply),
    );
  }

  #write(buffer: Uint8Array, view: DataView, bytes: number, isOurs: boolean): boolean {
    const file = this.#files.get(REQUEST_HEADER.get.nodeid(view));
    if (file === undefined) {
      this.#sendError(ENODEV);
      return false;
    }
    const offset = TRANSFER_IN.get.offset(view, REQUEST_HEADER.size);
    const size = TRANSFER_IN.get.size(view, REQUEST_HEADER.size);
    if (bytes < WRITE_DATA_AT || bytes - WRITE_DATA_AT !== size) {
      this.#sendError(EINVAL);
      return false;
    }
    file.checkWrite(offset, size);
    const data = buffer.subarray(WRITE_DATA_AT, WRITE_DATA_AT + size);
    const done = file.tryWrite(offset, data);
    if (done === size) {
      this.#sendWritten(file, size);
      return false;
    }
    const isKept = isOurs && size - done >= KEEP_FROM_BYTES;
    // Not its own slice: that of a Buffer is a view.
    const rest = isKept ? data.subarray(done) : new Uint8Array(data.subarray(done));
    if (isKept) this.#buffer = this.#spares.pop() ?? new Uint8Array(REQUEST_BYTES);
    const written = file.device.write(offset + done, rest).finally(() => {
      if (isKept) this.#giveBack(buffer);
    });
    this.#whenDone(this.#begin(file), written, (pending) => {
      this.#takeUp(pending);
      this.#sendWritten(file, size);
    });
    return isKept;
  }

  #giveBack(buffer: Uint8Array): void {
    if (this.#spares.length < SPARE_BUFFERS) this.#spares.push(buffer);
  }

  // --- the rest ---

  #other(opcode: number, buffer: Uint8Array, view: DataView, bytes: number): void {
    const body = REQUEST_HEADER.size;
    const node = REQUEST_HEADER.get.nodeid(view);
    const need = (size: number) => {
      if (bytes < body + size) throw new IoError("EINVAL", `a request ${opcode} of ${bytes} bytes is too short`);
    };
    switch (opcode) {
      case OPCODE.FORGET:
      case OPCODE.BATCH_FORGET:
      case OPCODE.INTERRUPT:
        return;
      case OPCODE.INIT:
        need(INIT_IN.size);
        return this.#init(view);
      case OPCODE.LOOKUP:
        return this.#lookup(node, lookupName(buffer, bytes));
      case OPCODE.GETATTR:
        return this.#sendAttributes(node);
      case OPCODE.SETATTR: {
        need(SETATTR_IN.size);
        if (node !== ROOT_NODE && (SETATTR_IN.get.valid(view, body) & SETATTR_SIZE) !== 0)
          return this.#sendError(EPERM);
        // Owner, permissions and times are nobody's business: as if they had been set.
        return this.#sendAttributes(node);
      }
      case OPCODE.OPEN:
        need(OPEN_IN.size);
        return this.#open(node, OPEN_IN.get.flags(view, body));
      case OPCODE.RELEASE:
        this.#sendEmpty();
        this.#files.get(node)?.closed();
        return;
      case OPCODE.OPENDIR:
        if (node !== ROOT_NODE) return this.#sendError(ENOTDIR);
        return this.#sendOpen(ROOT_NODE, 0);
      case OPCODE.READDIR:
        need(TRANSFER_IN.size);
        return this.#readFolder(node, TRANSFER_IN.get.offset(view, body), TRANSFER_IN.get.size(view, body));
      case OPCODE.RELEASEDIR:
      case OPCODE.FSYNCDIR:
      case OPCODE.DESTROY:
        return this.#sendEmpty();
      case OPCODE.STATFS:
        return this.#statfs(node);
      case OPCODE.FSYNC:
        return this.#later(node, (file) => file.device.flush());
      case OPCODE.FALLOCATE: {
        need(FALLOCATE_IN.size);
        const offset = FALLOCATE_IN.get.offset(view, body);
        const length = FALLOCATE_IN.get.length(view, body);
        const mode = FALLOCATE_IN.get.mode(view, body);
        return this.#later(node, (file) => file.allocate(mode, offset, length));
      }
      case OPCODE.LSEEK:
        need(LSEEK_IN.size);
        return this.#seek(node, LSEEK_IN.get.whence(view, body), LSEEK_IN.get.offset(view, body));
      default:
        return this.#sendError(REFUSED.has(opcode) ? EPERM : ENOSYS);
    }
  }

  #init(view: DataView): void {
    const answer = answerInit(INIT_IN.read(view, REQUEST_HEADER.size), {
      maxWriteBytes: MAX_TRANSFER_BYTES,
      maxBackground: MAX_BACKGROUND,
    });
    if (answer === undefined) {
      this.#log("this kernel's FUSE is too old: wanted 7.31");
      return this.#sendError(constants.errno.EPROTO);
    }
    INIT_OUT.write(this.#replyView, answer.reply, REPLY_HEADER.size);
    this.#send(INIT_OUT.size, 0);
  }

  #lookup(parent: number, name: string | undefined): void {
    const file = parent === ROOT_NODE && name !== undefined ? this.#byName.get(name) : undefined;
    if (file === undefined) return this.#sendError(ENOENT);
    const at = REPLY_HEADER.size;
    ENTRY_OUT_HEAD.write(
      this.#replyView,
      {
        nodeid: file.node,
        generation: 0,
        entryValid: 0,
        attrValid: ATTR_VALID_SECONDS,
        entryValidNsec: 0,
        attrValidNsec: 0,
      },
      at,
    );
    writeAttributes(this.#replyView, at + ENTRY_OUT_HEAD.size, attributesOf(file));
    this.#send(ENTRY_OUT_HEAD.size + 88, 0);
  }

  #sendAttributes(node: number): void {
    const attributes = this.#attributes(node);
    if (attributes === undefined) return this.#sendError(ENOENT);
    const at = REPLY_HEADER.size;
    const attrValid = isFolderMode(attributes.mode) ? 0 : ATTR_VALID_SECONDS;
    ATTR_OUT_HEAD.write(this.#replyView, { attrValid, attrValidNsec: 0, dummy: 0 }, at);
    writeAttributes(this.#replyView, at + ATTR_OUT_HEAD.size, attributes);
    this.#send(ATTR_OUT_HEAD.size + 88, 0);
  }

  #attributes(node: number): Attributes | undefined {
    if (node === ROOT_NODE) {
      return { ino: ROOT_NODE, sizeBytes: 0, mode: folderMode(ROOT_PERMISSIONS), nlink: 2, timeMs: this.#timeMs };
    }
    const file = this.#files.get(node);
    return file === undefined ? undefined : attributesOf(file);
  }

  #open(node: number, flags: number): void {
    if (node === ROOT_NODE) return this.#sendError(EISDIR);
    const file = this.#files.get(node);
    if (file === undefined) return this.#sendError(ENOENT);
    if (file.isReadOnly && (flags & O_ACCMODE) !== 0) return this.#sendError(EROFS);
    file.opens++;
    this.#sendOpen(node, OPEN_FLAG.DIRECT_IO | OPEN_FLAG.NOFLUSH | OPEN_FLAG.PARALLEL_DIRECT_WRITES);
  }

  #sendOpen(fh: number, openFlags: number): void {
    OPEN_OUT.write(this.#replyView, { fh, openFlags, backingId: 0 }, REPLY_HEADER.size);
    this.#send(OPEN_OUT.size, 0);
  }

  #readFolder(node: number, from: number, size: number): void {
    if (node !== ROOT_NODE) return this.#sendError(ENOTDIR);
    const entries = [
      { ino: ROOT_NODE, name: ".", isFolder: true },
      { ino: ROOT_NODE, name: "..", isFolder: true },
      ...this.files.map((file) => ({ ino: file.node, name: file.name, isFolder: false })),
    ];
    const packed = packFolder(entries, from, Math.min(size, MAX_TRANSFER_BYTES));
    this.#reply.set(packed, REPLY_HEADER.size);
    this.#send(packed.length, 0);
  }

  #statfs(node: number): void {
    const file = this.#files.get(node);
    const bsize = file?.unitBytes ?? 4096;
    STATFS_OUT.write(
      this.#replyView,
      {
        blocks: Math.ceil((file?.sizeBytes ?? 0) / bsize),
        bfree: 0,
        bavail: 0,
        files: this.#files.size,
        ffree: 0,
        bsize,
        namelen: 255,
        frsize: bsize,
        spare: new Uint8Array(28),
      },
      REPLY_HEADER.size,
    );
    this.#send(STATFS_OUT.size, 0);
  }

  #seek(node: number, whence: number, offset: number): void {
    const file = this.#files.get(node);
    if (file === undefined) return this.#sendError(ENODEV);
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) return this.#sendError(EINVAL);
    this.#whenDone(this.#begin(file), file.seek(whence, offset), (pending, found) => {
      this.#takeUp(pending);
      if (found === undefined) return this.#sendError(ENXIO);
      this.#replyView.setUint32(REPLY_HEADER.size, found >>> 0, true);
      this.#replyView.setUint32(REPLY_HEADER.size + 4, Math.floor(found / 2 ** 32), true);
      this.#send(8, 0);
    });
  }

  /** What always takes a promise and answers with nothing. */
  #later(node: number, run: (file: ImageFile) => Promise<void>): void {
    const file = this.#files.get(node);
    if (file === undefined) return this.#sendError(ENODEV);
    this.#whenDone(this.#begin(file), run(file), (pending) => {
      this.#takeUp(pending);
      this.#sendEmpty();
    });
  }

  // --- answers ---

  #whenDone<T>(pending: Pending, work: Promise<T>, answer: (pending: Pending, result: T) => void): void {
    work
      .then(
        (result) => answer(pending, result),
        (error: unknown) => this.#finishError(pending, error),
      )
      .catch((error: unknown) => this.#onMistake(error));
  }

  /** A request may stay without an answer, and whoever waits for it would for ever: with the mount they all get errors. */
  #onMistake(error: unknown): void {
    if (this.#isEnded) return;
    this.#log(mistakeText(error));
    this.#source.close();
    this.ended(error);
  }

  #begin(file: ImageFile): Pending {
    file.underWay++;
    return { unique0: this.#unique0, unique1: this.#unique1, file };
  }

  /** Back to a request that waited: what is sent next answers it. */
  #takeUp({ unique0, unique1, file }: Pending): void {
    file.underWay--;
    this.#unique0 = unique0;
    this.#unique1 = unique1;
    if (file.underWay === 0 && file.isRemoved) for (const wake of this.#idlers.splice(0)) wake();
  }

  #finish(pending: Pending, reply: Uint8Array): void {
    this.#takeUp(pending);
    this.#sendFrom(reply, new DataView(reply.buffer), reply.length, 0);
  }

  #finishError(pending: Pending, error: unknown): void {
    this.#takeUp(pending);
    this.#fail(error);
  }

  #fail(error: unknown): void {
    const code = codeOf(error);
    const number = code === undefined ? undefined : (constants.errno as Readonly<Record<string, number>>)[code];
    if (number === undefined || number === EIO) this.#log(`a request failed: ${messageOf(error)}`);
    this.#sendError(number ?? EIO);
  }

  #sendError(errno: number): void {
    this.#send(0, -errno);
  }

  #sendEmpty(): void {
    this.#send(0, 0);
  }

  #sendWritten(file: ImageFile, size: number): void {
    const held = this.#heldAnswers.size === 0 ? undefined : this.#heldAnswers.get(file);
    if (held !== undefined) {
      held.push({ unique0: this.#unique0, unique1: this.#unique1, size });
      return;
    }
    this.#replyView.setUint32(REPLY_HEADER.size, size, true);
    this.#replyView.setUint32(REPLY_HEADER.size + 4, 0, true);
    this.#send(WRITE_OUT.size, 0);
  }

  /** Sends the head and `bodyBytes` that lie behind it in the common buffer. */
  #send(bodyBytes: number, error: number): void {
    this.#sendFrom(this.#reply, this.#replyView, REPLY_HEADER.size + bodyBytes, error);
  }

  #sendFrom(reply: Uint8Array, view: DataView, length: number, error: number): void {
    if (this.#isEnded) return;
    view.setUint32(0, length, true);
    view.setInt32(4, error, true);
    view.setUint32(8, this.#unique0, true);
    view.setUint32(12, this.#unique1, true);
    this.#channel.send(reply, length);
  }

  #viewOf(buffer: Uint8Array): DataView {
    let view = this.#views.get(buffer);
    if (view === undefined) {
      view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
      this.#views.set(buffer, view);
    }
    return view;
  }

  /** Where a reply's data goes. */
  #replyPart(size: number): Uint8Array {
    let part = this.#replyParts.get(size);
    if (part === undefined) {
      part = this.#reply.subarray(REPLY_HEADER.size, REPLY_HEADER.size + size);
      if (this.#replyParts.size < MAX_VIEWS) this.#replyParts.set(size, part);
    }
    return part;
  }
}

function attributesOf(file: ImageFile): Attributes {
  return {
    ino: file.node,
    sizeBytes: file.sizeBytes,
    mode: S_IFREG | (file.isReadOnly ? 0o400 : 0o600),
    nlink: 1,
    timeMs: file.timeMs,
  };
}
