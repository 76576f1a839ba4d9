/** The tools for metadata: what they find, and what they make. */
export { Pace, type PaceOptions } from "./pace.js";
export * from "./reader/index.js";
