/**
 * Ends or undoes what an operation announced and did not live to finish. The pool's metadata decides: what was
 * committed there is carried to its end, what was not is forgotten. Running it twice does no harm.
 */
import { rmSync, statSync } from "node:fs";
import type { DeviceRecord, Intent, MadeFile } from "../device-registry/index.js";
import { codeOf, messageOf } from "../errors/index.js";
import type { Pool } from "../thin/index.js";
import { followUp } from "./follow-up.js";
import type { Session } from "./session.js";
import { addThin, digestOf, dropThin, hasDevice, readSuperblock, showThin, wipeSuperblock } from "./thin-records.js";

export async function mend(session: Session): Promise<void> {
  for (const intent of session.intents) {
    try {
      await mendOne(session, intent);
      session.log(`mended: ${intent.kind} of ${intent.pool}`);
    } catch (error) {
      session.log(`cannot mend ${intent.kind} of ${intent.pool}: ${messageOf(error)}`);
      // Until it is known whether a batch took place, nothing else may.
      const isBusy = codeOf(error) === "EBUSY" || codeOf(error) === "EACCES";
      if (isBusy && intent.kind === "batch") throw error;
      // Somebody else may have the pool just now; other failures would come again for ever.
      if (isBusy) continue;
    }
    session.fulfilled(intent);
  }
  await followUp(session);
  await session.close();
  await session.save();
}

async function mendOne(session: Session, intent: Intent): Promise<void> {
  switch (intent.kind) {
    case "create-pool":
      for (const file of intent.files) removeMadeFile(file);
      return;
    case "destroy-pool":
      return finishDestroy(session, intent);
    case "create-thin":
      return finishCreate(session, intent);
    case "delete-thin":
      return finishDelete(session, intent);
    case "rollback":
      return undoRollback(session, intent);
    case "batch": {
      const superblock = await readSuperblock(session, intent.metadata);
      if (digestOf(superblock) !== intent.superblock) await session.adopt(intent.next);
      else await session.close();
      return;
    }
    case "resume":
      if (session.registry.find(intent.pool) !== undefined) await session.registry.resume(intent.pool);
      return;
  }
}

/** Removes a file that we made, and only that one. */
export function removeMadeFile(file: MadeFile): void {
  const stat = statSync(file.path, { throwIfNoEntry: false });
  if (stat !== undefined && stat.ino === file.ino && stat.dev === file.dev) rmSync(file.path);
}

async function finishDestroy(session: Session, intent: Intent & { readonly kind: "destroy-pool" }): Promise<void> {
  const { registry } = session;
  if (registry.find(intent.pool) === undefined) return;
  await registry.remove(intent.pool);
  await wipeSuperblock(session, intent.metadata);
}

async function poolOf(
  session: Session,
  name: string,
): Promise<{ readonly record: DeviceRecord; readonly pool: Pool } | undefined> {
  const record = session.registry.find(name);
  if (record === undefined) return undefined;
  return { record, pool: (await session.registry.openPool(record.name)).pool };
}

async function finishCreate(session: Session, intent: Intent & { readonly kind: "create-thin" }): Promise<void> {
  const found = await poolOf(session, intent.pool);
  if (found === undefined || !hasDevice(found.pool, intent.thin.id)) return;
  const { registry } = session;
  const { thin } = intent;
  if (found.record.pool?.thins.some((each) => each.id === thin.id) === true) return;
  addThin(session, intent.pool, { ...thin, creationTime: found.pool.metadata.details(thin.id).creationTime });
  if (intent.activate && registry.find(thin.name) === undefined) await showThin(session, found.record, thin);
}

async function finishDelete(session: Session, intent: Intent & { readonly kind: "delete-thin" }): Promise<void> {
  const found = await poolOf(session, intent.pool);
  if (found === undefined) return;
  if (hasDevice(found.pool, intent.id)) {
    // Not deleted yet. A device that nothing names any more has to go; any other one stays as it was.
    if (intent.isLeftOver) await found.pool.message(["delete", String(intent.id)]);
    return;
  }
  await dropThin(session, intent.pool, intent.id);
}

async function undoRollback(session: Session, intent: Intent & { readonly kind: "rollback" }): Promise<void> {
  const found = await poolOf(session, intent.pool);
  if (found === undefined || !hasDevice(found.pool, intent.newId)) return;
  await found.pool.message(["delete", String(intent.newId)]);
}
