import { UdmError } from "../../../errors/index.js";

/** Work ended early because it was asked to; nothing is lost. */
export function interrupted(message: string, hint = "the same command goes on, or begins again"): UdmError {
  return new UdmError("EINTR", message, { hint });
}
