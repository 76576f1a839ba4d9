/** The text of a table as lines. Grammar: the command line of dmsetup, as captured. */
import { UdmError } from "../../errors/index.js";
import type { TableLine } from "../../host/index.js";

/** @throws UdmError EINVAL naming the line that does not parse */
export function parseTableText(text: string): readonly TableLine[] {
  const lines: TableLine[] = [];
  text.split("\n").forEach((raw, index) => {
    const line = raw.replace(/#.*/, "").trim();
    if (line === "") return;
    const match = /^(\d+)\s+(\d+)\s*([A-Za-z][^\s]*)\s*(.*)$/.exec(line);
    if (match === null) {
      throw new UdmError("EINVAL", `table line ${index + 1}: '${line}' is not START LENGTH TYPE ARGUMENTS`, {
        hint: "such as: 0 2048 linear 7:0 0",
      });
    }
    const [, start = "", length = "", type = "", args = ""] = match;
    const [startSectors, lengthSectors] = [Number(start), Number(length)];
    if (!Number.isSafeInteger(startSectors) || !Number.isSafeInteger(lengthSectors)) {
      throw new UdmError("EINVAL", `table line ${index + 1}: start or length is out of range`, {
        hint: "both are counts of 512-byte sectors",
      });
    }
    lines.push({ startSectors, lengthSectors, type, args: args.split(/\s+/).filter((word) => word !== "") });
  });
  if (lines.length === 0) {
    throw new UdmError("EINVAL", "the table has no lines", { hint: "such as: 0 2048 linear 7:0 0" });
  }
  return lines;
}
