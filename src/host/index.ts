export type * from "./host.js";
export { type HostOptions, openHost } from "./open-host.js";
export { type OpenedPool, type OpenPoolOptions, openPool } from "./open-pool.js";
