/** dmsetup's concise form: NAME,UUID,MINOR,FLAGS,LINE[,LINE...][;NAME...]; a backslash makes the next one literal. */
import { StateError } from "../errors/index.js";
import type { TargetLine } from "../targets/index.js";
import { formatLine, parseTable } from "./table-text.js";

export interface ConciseDevice {
  readonly name: string;
  readonly uuid: string;
  readonly minor: number | undefined;
  readonly readOnly: boolean;
  readonly table: readonly TargetLine[];
}

export function formatConcise(devices: readonly ConciseDevice[]): string {
  return devices
    .map(({ name, uuid, minor, readOnly, table }) =>
      [
        escaped(name),
        escaped(uuid),
        minor === undefined ? "" : String(minor),
        readOnly ? "ro" : "rw",
        ...table.map((line) => escaped(formatLine(line))),
      ].join(","),
    )
    .join(";");
}

/** @throws StateError EINVAL */
export function parseConcise(text: string): ConciseDevice[] {
  return splitFields(text.replace(/\n+$/, ""))
    .filter((fields) => fields.length > 1 || fields[0] !== "")
    .map(parseDevice);
}

function parseDevice(fields: readonly string[]): ConciseDevice {
  const [name = "", uuid = "", minor = "", flags = "", ...lines] = fields;
  const shown = `name: ${name} uuid: ${uuid} minor: ${minor} flags: ${flags}`;
  if (fields.length < 4 || (fields.length === 5 && lines[0] === "")) {
    throw new StateError("EINVAL", `incomplete entry: parsed ${fields.length} fields: ${shown}`, {
      hint: "five comma-separated fields are required for each device: NAME,UUID,MINOR,FLAGS,TABLE",
    });
  }
  if (flags !== "" && flags !== "ro" && flags !== "rw") {
    throw new StateError("EINVAL", `invalid flags parameter '${flags}'`, { hint: "'ro' or 'rw' or nothing" });
  }
  if (!/^\d*$/.test(minor)) {
    throw new StateError("EINVAL", `minor '${minor}' is not a number`, {
      hint: "leave it empty for the lowest free one",
    });
  }
  return {
    name,
    uuid,
    minor: minor === "" ? undefined : Number(minor),
    readOnly: flags === "ro",
    table: parseTable(lines.join("\n")),
  };
}

/** Devices by `;`, fields by `,`; blanks in front of the first five fields go. */
function splitFields(text: string): string[][] {
  const devices: string[][] = [[""]];
  const add = (character: string) => {
    const fields = devices.at(-1)!;
    fields[fields.length - 1] += character;
  };
  for (let at = 0; at < text.length; at++) {
    const character = text[at]!;
    const fields = devices.at(-1)!;
    if (character === "\\") {
      at++;
      if (at >= text.length) {
        throw new StateError("EINVAL", "backslash must be followed by another character at end of string", {
          hint: "write \\\\ for a backslash",
        });
      }
      add(text[at]!);
    } else if (character === ";") devices.push([""]);
    else if (character === ",") fields.push("");
    else if (/\s/.test(character) && fields.length <= 5 && fields.at(-1) === "") continue;
    else add(character);
  }
  return devices;
}

function escaped(text: string): string {
  return text.replaceAll(/[\\,;]/g, (character) => `\\${character}`);
}
