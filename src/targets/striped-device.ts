/**
 * The bytes of a striped target. Consecutive chunks of one stripe lie next to each other on its device, so a request
 * of any length becomes at most one transfer a device, gathered in a buffer where it takes more than one chunk.
 */
import { UdmError } from "../errors/index.js";
import type { BlockDevice, Extent, SyncIo } from "../io/index.js";

export interface Stripe {
  readonly device: BlockDevice;
  readonly offsetBytes: number;
}

/** What one device gets of a request: a stretch there, and the pieces of the request it is made of. */
interface Share {
  readonly stripe: Stripe;
  readonly offset: number;
  length: number;
  readonly pieces: { readonly at: number; readonly length: number }[];
}

export class StripedDevice implements BlockDevice {
  readonly name = "striped";
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  readonly logicalBlockBytes: number;
  readonly discardGranularityBytes: number;
  readonly sync: SyncIo | undefined;
  readonly #stripes: readonly Stripe[];
  readonly #chunkBytes: number;

  constructor(stripes: readonly Stripe[], options: { readonly chunkBytes: number; readonly sizeBytes: number }) {
    this.#stripes = stripes;
    this.#chunkBytes = options.chunkBytes;
    this.sizeBytes = options.sizeBytes;
    this.isReadOnly = stripes.some(({ device }) => device.isReadOnly);
    this.logicalBlockBytes = Math.max(...stripes.map(({ device }) => device.logicalBlockBytes));
    const granularities = stripes.map(({ device }) => device.discardGranularityBytes);
    this.discardGranularityBytes = granularities.includes(0) ? 0 : Math.max(...granularities);
    this.sync = stripes.every(({ device }) => device.sync !== undefined) ? this.#syncIo() : undefined;
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    await Promise.all(
      this.#shares(offset, buffer.length).map(async (share) => {
        const { data, scatter } = landing(share, buffer);
        await share.stripe.device.read(share.offset, data);
        scatter();
      }),
    );
  }

  async write(offset: number, buffer: Uint8Array, options?: { readonly fua?: boolean }): Promise<void> {
    await Promise.all(
      this.#shares(offset, buffer.length).map((share) =>
        share.stripe.device.write(share.offset, gathered(share, buffer), options),
      ),
    );
  }

  async flush(): Promise<void> {
    await Promise.all(this.#devices().map((device) => device.flush()));
  }

  async discard(offset: number, length: number): Promise<void> {
    await Promise.all(this.#shares(offset, length).map((each) => each.stripe.device.discard(each.offset, each.length)));
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    await Promise.all(
      this.#shares(offset, length).map((each) => each.stripe.device.writeZeroes(each.offset, each.length)),
    );
  }

  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    this.#check(offset, length);
    const found: { offset: number; length: number; kind: Extent["kind"] }[] = [];
    for (let at = offset; at < offset + length; ) {
      const { stripe, below, length: piece } = this.#locate(at, offset + length - at);
      for (const each of await stripe.device.extents(below, piece)) {
        const last = found.at(-1);
        if (last !== undefined && last.kind === each.kind) last.length += each.length;
        else found.push({ offset: at + (each.offset - below), length: each.length, kind: each.kind });
      }
      at += piece;
    }
    return found;
  }

  async refreshSize(): Promise<void> {}
  async close(): Promise<void> {}
  async [Symbol.asyncDispose](): Promise<void> {}

  #devices(): BlockDevice[] {
    return [...new Set(this.#stripes.map(({ device }) => device))];
  }

  #check(offset: number, length: number): void {
    if (offset < 0 || length < 0 || offset + length > this.sizeBytes) {
      throw new UdmError("EINVAL", `striped: ${length} bytes at ${offset} leave the device of ${this.sizeBytes} bytes`);
    }
  }

  /** Where byte `at` lies, and how many of the next `most` bytes lie there with it. */
  #locate(at: number, most: number): { readonly stripe: Stripe; readonly below: number; readonly length: number } {
    const chunk = Math.floor(at / this.#chunkBytes);
    const inside = at - chunk * this.#chunkBytes;
    const stripe = this.#stripes[chunk % this.#stripes.length]!;
    const row = Math.floor(chunk / this.#stripes.length);
    return {
      stripe,
      below: stripe.offsetBytes + row * this.#chunkBytes + inside,
      length: Math.min(most, this.#chunkBytes - inside),
    };
  }

  #shares(offset: number, length: number): Share[] {
    this.#check(offset, length);
    const shares = new Map<Stripe, Share>();
    for (let done = 0; done < length; ) {
      const { stripe, below, length: piece } = this.#locate(offset + done, length - done);
      const share = shares.get(stripe);
      if (share === undefined) {
        shares.set(stripe, { stripe, offset: below, length: piece, pieces: [{ at: done, length: piece }] });
      } else {
        share.length += piece;
        share.pieces.push({ at: done, length: piece });
      }
      done += piece;
    }
    return [...shares.values()];
  }

  #syncIo(): SyncIo {
    const below = (stripe: Stripe): SyncIo => stripe.device.sync!;
    return {
      read: (offset, buffer) => {
        for (const share of this.#shares(offset, buffer.length)) {
          const { data, scatter } = landing(share, buffer);
          below(share.stripe).read(share.offset, data);
          scatter();
        }
      },
      write: (offset, buffer) => {
        for (const share of this.#shares(offset, buffer.length)) {
          below(share.stripe).write(share.offset, gathered(share, buffer));
        }
      },
      flush: () => {
        for (const device of this.#devices()) device.sync!.flush();
      },
      discard: (offset, length) => {
        for (const share of this.#shares(offset, length)) below(share.stripe).discard(share.offset, share.length);
      },
      writeZeroes: (offset, length) => {
        for (const share of this.#shares(offset, length)) below(share.stripe).writeZeroes(share.offset, share.length);
      },
      knownZeroes: (offset, length) => {
        this.#check(offset, length);
        let known = 0;
        while (known < length) {
          const piece = this.#locate(offset + known, length - known);
          const zeros = below(piece.stripe).knownZeroes(piece.below, piece.length);
          known += zeros;
          if (zeros < piece.length) break;
        }
        return known;
      },
    };
  }
}

/** Where a share is read to: the caller's buffer where it is one piece, else a buffer that is dealt out afterwards. */
function landing(share: Share, buffer: Uint8Array): { readonly data: Uint8Array; readonly scatter: () => void } {
  const [only] = share.pieces;
  if (share.pieces.length === 1) {
    return { data: buffer.subarray(only!.at, only!.at + only!.length), scatter: () => {} };
  }
  const data = Buffer.allocUnsafe(share.length);
  return {
    data,
    scatter() {
      let from = 0;
      for (const { at, length } of share.pieces) {
        buffer.set(data.subarray(from, from + length), at);
        from += length;
      }
    },
  };
}

function gathered(share: Share, buffer: Uint8Array): Uint8Array {
  const [only] = share.pieces;
  if (share.pieces.length === 1) return buffer.subarray(only!.at, only!.at + only!.length);
  const data = Buffer.allocUnsafe(share.length);
  let to = 0;
  for (const { at, length } of share.pieces) {
    data.set(buffer.subarray(at, at + length), to);
    to += length;
  }
  return data;
}
