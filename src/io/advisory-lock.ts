/** flock(2) on an open descriptor, by system call or by util-linux; the lock belongs to the open file either way. */
import type { Native } from "./native.js";
import { runSync } from "./run.js";

/**
 * Never waits. @returns false when somebody else's lock is in the way
 * @throws IoError EOPNOTSUPP where the file system has no locks; ToolError without koffi and without util-linux
 */
export function tryFlock(fd: number, kind: "shared" | "exclusive", native: Native | undefined): boolean {
  if (native !== undefined) return native.flock(fd, kind);
  const { status } = runSync("flock", ["--nonblock", `--${kind}`, "3"], { passFds: [fd], okStatuses: [0, 1] });
  return status === 0;
}
