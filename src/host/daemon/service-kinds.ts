/** The kinds of services a daemon has; each is a file of its own, as services.ts describes. */
import type { AnyServiceKind } from "./services.js";

export const SERVICE_KINDS: readonly AnyServiceKind[] = [];
