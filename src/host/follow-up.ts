/** What follows from a change: deferred removals whose time has come, loop devices without users, names without owner. */

import { LOOP_MAJOR } from "./below.js";
import type { Session } from "./session.js";
import { findThinDevice, forgetThins, hasDevice, thinsOf } from "./thin-records.js";

export async function followUp(session: Session): Promise<void> {
  forgetLostThins(session);
  await removeDeferred(session);
  detachUnused(session);
}

/** Between operations that take place together: only what the next one could see. */
export async function followUpHeld(session: Session): Promise<void> {
  const isWaiting = session.registry
    .records()
    .some((record) => record.deferredRemove || thinsOf(record).some((thin) => thin.deleteWhenClosed));
  if (isWaiting) await removeDeferred(session);
}

async function removeDeferred(session: Session): Promise<void> {
  const { registry } = session;
  for (let again = true; again; ) {
    again = false;
    for (const record of registry.records()) {
      if (!record.deferredRemove || registry.openCount(record) > 0) continue;
      await registry.remove(record.name);
      again = true;
    }
    for (const pool of registry.records()) {
      for (const thin of thinsOf(pool)) {
        if (!thin.deleteWhenClosed || findThinDevice(session, pool, thin.id) !== undefined) continue;
        // Nothing names it any more: a cut between the two steps leaves it to be deleted by the next operation.
        const { pool: service } = await registry.openPool(pool.name);
        if (hasDevice(service, thin.id)) await service.message(["delete", String(thin.id)]);
        forgetThins(session, pool.name, new Set([thin.id]));
        again = true;
      }
    }
  }
}

function detachUnused(session: Session): void {
  const { registry } = session;
  session.setLoops(
    session.loops.filter((loop) => !loop.autoclear || registry.usersOf(`${LOOP_MAJOR}:${loop.number}`).length > 0),
  );
}

/** The metadata wins: a device that was deleted there, or deleted and made anew elsewhere, is not the one we named. */
function forgetLostThins(session: Session): void {
  for (const { record, pool } of session.registry.openPools()) {
    const known = thinsOf(record);
    if (known.length === 0 || pool.metadata.isFailed) continue;
    const lost = known.filter(
      (thin) => !hasDevice(pool, thin.id) || pool.metadata.details(thin.id).creationTime !== thin.creationTime,
    );
    if (lost.length > 0) forgetThins(session, record.name, new Set(lost.map(({ id }) => id)));
  }
}

/** Numbers that tables name, so that a new loop device does not take the place of one of the machine's. */
export function numbersInUse(session: Session): ReadonlySet<string> {
  const numbers = session.registry
    .records()
    .flatMap((record) => [
      ...session.registry.dependencies(record),
      ...session.registry.dependencies(record, { inactive: true }),
    ]);
  return new Set([...numbers, ...session.loops.map((loop) => `${LOOP_MAJOR}:${loop.number}`)]);
}

export function numberOfLoop(number: number): string {
  return `${LOOP_MAJOR}:${number}`;
}
