/** `udm thin list`: what the pools' metadata say about their thin devices, with names where udm knows them. */
import { Command } from "commander";
import type { ThinInfo } from "../../host/index.js";
import type { Context } from "../context.js";
import { eachPool } from "../pool/each-pool.js";
import { type Column, printReport } from "../report.js";

export const THIN_COLUMNS = [
  { heading: "NAME", key: "name", kind: "text", mayBeUnknown: true, value: (thin) => thin.name },
  { heading: "POOL", key: "pool", kind: "text", value: (thin) => thin.pool },
  { heading: "ID", key: "id", kind: "number", value: (thin) => thin.id },
  { heading: "SIZE", key: "size", kind: "bytes", mayBeUnknown: true, value: (thin) => thin.sizeBytes },
  { heading: "MAPPED", key: "mapped", kind: "bytes", value: (thin) => thin.mappedBytes },
  { heading: "EXCLUSIVE", key: "exclusive", kind: "bytes", mayBeUnknown: true, value: (thin) => thin.exclusiveBytes },
  { heading: "SHARED", key: "shared", kind: "bytes", mayBeUnknown: true, value: (thin) => thin.sharedBytes },
  {
    heading: "FREED",
    key: "freedIfDeleted",
    kind: "bytes",
    mayBeUnknown: true,
    isExtra: true,
    value: (thin) => thin.freedIfDeletedBytes,
  },
  {
    heading: "ORIGIN",
    key: "origin",
    kind: "text",
    mayBeUnknown: true,
    value: (thin) => thin.origin ?? thin.externalOrigin,
  },
  { heading: "CREATED", key: "creationTime", kind: "number", value: (thin) => thin.creationTime },
  { heading: "SNAPPED", key: "snapshottedTime", kind: "number", value: (thin) => thin.snapshottedTime },
  { heading: "TRANSACTION", key: "transactionId", kind: "number", value: (thin) => thin.transactionId },
  { heading: "ACTIVE", key: "active", kind: "flag", isExtra: true, value: (thin) => thin.active },
  { heading: "RO", key: "readOnly", kind: "flag", isExtra: true, value: (thin) => thin.readOnly },
  {
    heading: "HIGHEST",
    key: "highestMapped",
    kind: "bytes",
    mayBeUnknown: true,
    isExtra: true,
    value: (thin) => thin.highestMappedBytes,
  },
  {
    heading: "EXTERNAL-ORIGIN",
    key: "externalOrigin",
    kind: "text",
    mayBeUnknown: true,
    isExtra: true,
    value: (thin) => thin.externalOrigin,
  },
] as const satisfies readonly Column<ThinInfo>[];

export function listCommand(context: Context): Command {
  return new Command("list")
    .description("Lists thin devices. CREATED and SNAPPED are times of the pool's own clock, which counts snapshots.")
    .argument("[pool]", "only this pool's")
    .action(async (pool: string | undefined) => {
      const host = await context.host();
      const { rows, failures } =
        pool === undefined
          ? await eachPool(host, (name) => host.listThins(name))
          : { rows: await host.listThins(pool), failures: [] };
      await printReport(context, { noun: "thins", columns: THIN_COLUMNS, rows });
      context.failAfter(failures);
    });
}
