/** The host in the command's own process: every operation locks, opens what it needs, does it, and leaves. */
import { StateError } from "../errors/index.js";
import { blockNodes } from "./block-nodes.js";
import { CommandCore, type Core, type CoreOptions } from "./core.js";
import { examine } from "./doctor.js";
import type { Host } from "./host.js";
import {
  attachKernelLoop,
  attachLoop,
  detachLoop,
  listLoops,
  planAttachLoop,
  planDetachLoop,
  planResizeLoop,
  resizeLoop,
} from "./loops.js";
import { locateMetadata } from "./metadata-place.js";
import {
  planClearTable,
  planDeviceMessage,
  planKernelLoop,
  planLoadTable,
  planPoolMessage,
  planRemoveDevice,
  planRenameDevice,
  planRestoreTables,
  planResume,
  planSetPool,
  planSuspend,
  planTransfer,
} from "./plans.js";
import { planResizePool, resizePool } from "./pool-resize.js";
import { shortenPool } from "./pool-shrink.js";
import {
  createPool,
  extendPool,
  listPools,
  planCreatePool,
  planRemovePool,
  poolEvents,
  poolMap,
  poolMessage,
  poolStatus,
  removePool,
  setPool,
} from "./pools.js";
import {
  clearTable,
  deviceInfo,
  deviceMessage,
  listDevices,
  loadTable,
  removeDevice,
  renameDevice,
  restoreTables,
  resume,
  saveTables,
  showTables,
  suspend,
  tableStatus,
  waitDevice,
} from "./tables.js";
import { listThins, thinDiff, thinMap, thinUsage } from "./thin-list.js";
import {
  activateThin,
  createThin,
  deactivateThin,
  deleteThin,
  planActivateThin,
  planCreateThin,
  planDeactivateThin,
  planDeleteThin,
  planRenameThin,
  planResizeThin,
  planRollbackThin,
  planSnapThin,
  renameThin,
  resizeThin,
  rollbackThin,
  snapThin,
} from "./thins.js";
import { exportDevice, importDevice, readDevice, trimDevice, writeDevice } from "./transfer.js";

export type HostOptions = CoreOptions;

/**
 * @param options.stateDir made with the first change; `runDir` holds what is true until the next boot only
 * @param options.lockTimeoutMs how long a change waits for its turn; default 30 seconds
 */
export async function openHost(options: HostOptions): Promise<Host> {
  return hostOver(new CommandCore(options));
}

/** All operations over a core: a command's own, or a daemon's. */
export function hostOver(core: Core): Host {
  const bound = <Rest extends unknown[], Result>(
    operation: (core: Core, ...rest: Rest) => Promise<Result>,
  ): ((...rest: Rest) => Promise<Result>) => {
    return async (...rest) => operation(core, ...rest);
  };
  return {
    attachLoop: bound(attachLoop),
    attachKernelLoop: bound(attachKernelLoop),
    detachLoop: bound(detachLoop),
    resizeLoop: bound(resizeLoop),
    listLoops: bound(listLoops),

    createPool: bound(createPool),
    resizePool: bound(resizePool),
    shortenPool: bound(shortenPool),
    listPools: bound(listPools),
    poolStatus: bound(poolStatus),
    setPool: bound(setPool),
    extendPool: bound(extendPool),
    poolEvents: bound(poolEvents),
    poolMessage: bound(poolMessage),
    removePool: bound(removePool),
    poolMap: bound(poolMap),

    createThin: bound(createThin),
    snapThin: bound(snapThin),
    deleteThin: bound(deleteThin),
    activateThin: bound(activateThin),
    deactivateThin: bound(deactivateThin),
    resizeThin: bound(resizeThin),
    renameThin: bound(renameThin),
    rollbackThin: bound(rollbackThin),
    listThins: bound(listThins),
    thinUsage: bound(thinUsage),
    thinMap: bound(thinMap),
    thinDiff: bound(thinDiff),
    locateMetadata: bound(locateMetadata),

    readDevice: bound(readDevice),
    writeDevice: bound(writeDevice),
    exportDevice: bound(exportDevice),
    importDevice: bound(importDevice),
    trimDevice: bound(trimDevice),

    loadTable: bound(loadTable),
    clearTable: bound(clearTable),
    suspend: bound(suspend),
    resume: bound(resume),
    showTables: bound(showTables),
    tableStatus: bound(tableStatus),
    saveTables: bound(saveTables),
    restoreTables: bound(restoreTables),
    listDevices: bound(listDevices),
    deviceInfo: bound(deviceInfo),
    renameDevice: bound(renameDevice),
    removeDevice: bound(removeDevice),
    deviceMessage: bound(deviceMessage),
    waitDevice: bound(waitDevice),

    blockNodes: bound(blockNodes),
    examine: bound(examine),

    plan: {
      attachLoop: bound(planAttachLoop),
      attachKernelLoop: bound(planKernelLoop),
      detachLoop: bound(planDetachLoop),
      resizeLoop: bound(planResizeLoop),
      createPool: bound(planCreatePool),
      resizePool: bound(planResizePool),
      setPool: bound(planSetPool),
      poolMessage: bound(planPoolMessage),
      removePool: bound(planRemovePool),
      createThin: bound(planCreateThin),
      snapThin: bound(planSnapThin),
      deleteThin: bound(planDeleteThin),
      activateThin: bound(planActivateThin),
      deactivateThin: bound(planDeactivateThin),
      resizeThin: bound(planResizeThin),
      renameThin: bound(planRenameThin),
      rollbackThin: bound(planRollbackThin),
      transfer: bound(planTransfer),
      loadTable: bound(planLoadTable),
      clearTable: bound(planClearTable),
      suspend: bound(planSuspend),
      resume: bound(planResume),
      restoreTables: bound(planRestoreTables),
      renameDevice: bound(planRenameDevice),
      removeDevice: bound(planRemoveDevice),
      deviceMessage: bound(planDeviceMessage),
    },
    startService: async () => {
      throw new StateError("EOPNOTSUPP", "no daemon runs", { hint: "udm daemon start" });
    },
    stopService: noService,
    waitService: noService,
    listServices: async () => [],
    daemonInfo: async () => undefined,
    keepDaemon: noDaemon,
    stopDaemon: noDaemon,

    begin: (purpose, options) => core.begin(purpose, options),
    commit: () => core.commit(),
    undo: () => core.undo(),
    close: () => core.close(),
  };
}

async function noDaemon(): Promise<never> {
  throw new StateError("ENOENT", "no daemon runs", { hint: "udm daemon start" });
}

async function noService(name: string): Promise<never> {
  throw new StateError("ENOENT", `nothing called '${name}' is served: no daemon runs`, {
    hint: "udm daemon status tells whether one does",
  });
}
