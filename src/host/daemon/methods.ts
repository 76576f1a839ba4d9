/** Methods of the host that go over the socket. The compiler says which are missing. */
import type { Host, HostPlans } from "../host.js";

/** Of one end only: they are about the connection. */
type Local = "close" | "plan";

const METHODS: Readonly<Record<Exclude<keyof Host, Local>, true>> = {
  attachLoop: true,
  attachKernelLoop: true,
  detachLoop: true,
  resizeLoop: true,
  listLoops: true,
  createPool: true,
  resizePool: true,
  shortenPool: true,
  listPools: true,
  poolStatus: true,
  setPool: true,
  extendPool: true,
  poolEvents: true,
  poolMessage: true,
  removePool: true,
  poolMap: true,
  createThin: true,
  snapThin: true,
  deleteThin: true,
  activateThin: true,
  deactivateThin: true,
  resizeThin: true,
  renameThin: true,
  rollbackThin: true,
  listThins: true,
  thinUsage: true,
  thinMap: true,
  thinDiff: true,
  locateMetadata: true,
  readDevice: true,
  writeDevice: true,
  exportDevice: true,
  importDevice: true,
  trimDevice: true,
  loadTable: true,
  clearTable: true,
  suspend: true,
  resume: true,
  showTables: true,
  tableStatus: true,
  saveTables: true,
  restoreTables: true,
  listDevices: true,
  deviceInfo: true,
  renameDevice: true,
  removeDevice: true,
  deviceMessage: true,
  waitDevice: true,
  blockNodes: true,
  examine: true,
  startService: true,
  stopService: true,
  waitService: true,
  listServices: true,
  daemonInfo: true,
  keepDaemon: true,
  stopDaemon: true,
  begin: true,
  commit: true,
  undo: true,
};

const PLANS: Readonly<Record<keyof HostPlans, true>> = {
  attachLoop: true,
  attachKernelLoop: true,
  detachLoop: true,
  resizeLoop: true,
  createPool: true,
  resizePool: true,
  setPool: true,
  poolMessage: true,
  removePool: true,
  createThin: true,
  snapThin: true,
  deleteThin: true,
  activateThin: true,
  deactivateThin: true,
  resizeThin: true,
  renameThin: true,
  rollbackThin: true,
  transfer: true,
  loadTable: true,
  clearTable: true,
  suspend: true,
  resume: true,
  restoreTables: true,
  renameDevice: true,
  removeDevice: true,
  deviceMessage: true,
};

export const METHOD_NAMES = Object.keys(METHODS) as readonly (keyof typeof METHODS)[];
export const PLAN_NAMES = Object.keys(PLANS) as readonly (keyof typeof PLANS)[];

type Method = (...args: readonly unknown[]) => Promise<unknown>;

/** The method of a name that came over the socket, if it is one. */
export function methodOf(host: Host, name: string): Method | undefined {
  const plan = name.startsWith("plan.") ? name.slice(5) : undefined;
  const isKnown = plan === undefined ? Object.hasOwn(METHODS, name) : Object.hasOwn(PLANS, plan);
  if (!isKnown) return undefined;
  const table: object = plan === undefined ? host : host.plan;
  return (table as Readonly<Record<string, Method>>)[plan ?? name];
}
