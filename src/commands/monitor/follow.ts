/** Reading events as they come. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Host, PoolEvent } from "../../host/index.js";

const PAUSE_MS = 200;

/** New events behind a position. Events lie in a file, so that they are seen whoever has the pools. */
export class EventReader {
  readonly #host: Host;
  readonly #pools: readonly string[];
  #position: string | undefined;

  /** @param pools only of these; all when empty */
  constructor(host: Host, pools: readonly string[]) {
    this.#host = host;
    this.#pools = pools;
  }

  /** What is remembered is passed over. */
  async skip(): Promise<void> {
    this.#position = (await this.#host.poolEvents({ end: true })).position;
  }

  async next(): Promise<readonly PoolEvent[]> {
    const position = this.#position;
    const read = await this.#host.poolEvents(position === undefined ? {} : { after: position });
    this.#position = read.position;
    return read.events.filter(({ pool }) => this.#pools.length === 0 || this.#pools.includes(pool));
  }
}

/** A pause that an interrupt ends. */
export async function pause(signal: AbortSignal, ms = PAUSE_MS): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => undefined);
}
