export type * from "./host.js";
export { type HostOptions, openHost } from "./open-host.js";
