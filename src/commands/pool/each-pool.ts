/** Reports over all pools: one that cannot be read does not take the others' rows away. */
import type { Host } from "../../host/index.js";

export interface PoolRows<T> {
  readonly rows: readonly T[];
  /** What the pools that are missing among the rows failed with. */
  readonly failures: readonly unknown[];
}

export async function eachPool<T>(host: Host, read: (name: string) => Promise<readonly T[]>): Promise<PoolRows<T>> {
  const rows: T[] = [];
  const failures: unknown[] = [];
  for (const { name } of await host.listPools()) {
    try {
      rows.push(...(await read(name)));
    } catch (error) {
      failures.push(error);
    }
  }
  return { rows, failures };
}
