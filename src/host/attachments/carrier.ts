/** What makes a block device of the kernel out of a mapped device: FUSE and a loop device, or NBD. */
import type { MappedDevice } from "../../device-registry/index.js";
import type { ServiceContext } from "../daemon/services.js";

export interface CarrierRequest {
  readonly context: ServiceContext;
  /** For the image, or the export. */
  readonly name: string;
  readonly device: MappedDevice;
  readonly readOnly: boolean;
  readonly sectorBytes: number;
  readonly devFolder: string;
}

export interface Carrier {
  /** The block device: `/dev/loopN`, `/dev/nbdN`. */
  readonly node: string;
  /** What it stands on: an image, a socket. */
  readonly file: string;
  readonly sizeBytes: number;
  readonly directIo: boolean;
  /** The device has another table: its size may have changed. */
  tableChanged(): Promise<void>;
  /** Told when somebody else has taken the block device away. */
  onLost(lost: () => void): void;
  /** Takes the block device away; what was written to it has reached the mapped device. */
  close(): Promise<void>;
}

/** Undoing goes on when a step fails; what failed is logged. */
export class UndoList {
  readonly #steps: (() => Promise<void>)[] = [];
  readonly #fail: (error: unknown) => void;

  constructor(fail: (error: unknown) => void) {
    this.#fail = fail;
  }

  push(step: () => Promise<void>): void {
    this.#steps.push(step);
  }

  /** Last in, first out. */
  async run(): Promise<void> {
    for (const step of this.#steps.splice(0).reverse()) await step().catch(this.#fail);
  }
}
