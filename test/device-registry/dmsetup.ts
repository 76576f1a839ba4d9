/** As much of dmsetup as replays captures against a registry: what a command prints, its status, what the kernel logs. */
import { type DeviceRecord, formatLine, parseTable, Registry } from "../../src/device-registry/index.js";
import { codeOf } from "../../src/errors/index.js";
import type { TestMachine } from "./machine.js";

const TEXTS: Readonly<Record<string, string>> = {
  EINVAL: "Invalid argument",
  ENODEV: "No such device",
  ENXIO: "No such device or address",
  EBUSY: "Device or resource busy",
  EEXIST: "File exists",
  ENODATA: "No data available",
  ENOSPC: "No space left on device",
  ENOTBLK: "Block device required",
  EOPNOTSUPP: "Operation not supported",
};

export interface Outcome {
  readonly stdout: readonly string[];
  readonly stderr: readonly string[];
  readonly log: readonly string[];
  readonly status: number;
}

export class TestDmsetup {
  readonly registry: Registry;
  #log: string[] = [];

  constructor(machine: TestMachine) {
    this.registry = new Registry({
      devices: [],
      below: machine,
      log: (line) => this.#log.push(`device-mapper: ${line}`),
      noSpaceTimeoutMs: 0,
    });
  }

  async run(command: string): Promise<Outcome> {
    this.#log = [];
    const stdout: string[] = [];
    const stderr: string[] = [];
    const words = shellWords(command);
    let status = 0;
    if (words[0] === "dd" || words[0] === "blkdiscard") return this.#transfer(words);
    try {
      stdout.push(...(await this.#do(words.slice(1))));
    } catch (error) {
      status = 1;
      stderr.push(...((error as { lines?: string[] }).lines ?? [String(error)]), "Command failed.");
    }
    return { stdout, stderr, log: this.#log, status };
  }

  /** dd and blkdiscard on a mapped device: they succeed or not, the rest is dd's own chatter. */
  async #transfer(words: readonly string[]): Promise<Outcome> {
    const value = (name: string) => words.find((each) => each.startsWith(`${name}=`))?.slice(name.length + 1);
    const number = (text: string | undefined, otherwise: number) =>
      text === undefined ? otherwise : Number.parseInt(text, 10) * (text.endsWith("k") ? 1024 : 1);
    const device = await this.registry.open((value("of") ?? value("if") ?? words.at(-1)!).replace("/dev/mapper/", ""));
    try {
      if (words[0] === "blkdiscard") {
        const offset = words.includes("-o") ? Number(words[words.indexOf("-o") + 1]) : 0;
        const length = words.includes("-l") ? Number(words[words.indexOf("-l") + 1]) : device.sizeBytes - offset;
        await device.discard(offset, length);
      } else {
        const size = number(value("bs"), 512);
        const buffer = Buffer.alloc(size, 0x5a);
        for (let block = 0; block < number(value("count"), 1); block++) {
          await device.write((number(value("seek"), 0) + block) * size, buffer);
        }
      }
      return { stdout: [], stderr: [], log: this.#log, status: 0 };
    } catch {
      return { stdout: [], stderr: [], log: this.#log, status: 1 };
    }
  }

  async #do([verb, ...words]: readonly string[]): Promise<readonly string[]> {
    const registry = this.registry;
    const option = (name: string) => (words.includes(name) ? words[words.indexOf(name) + 1] : undefined);
    const name = words.find((each) => !each.startsWith("--")) ?? "";
    const ioctl = async (what: string, on: string, run: () => Promise<unknown> | unknown) => {
      try {
        return await run();
      } catch (error) {
        throw failure(`device-mapper: ${what} ioctl on ${on} failed: ${TEXTS[codeOf(error) ?? ""] ?? error}`);
      }
    };
    switch (verb) {
      case "create": {
        const lines = words.includes("--notable") ? [] : parse(option("--table") ?? "");
        const record = (await ioctl("create", `${name} `, () => registry.create({ name }))) as DeviceRecord;
        if (lines.length === 0) return [];
        try {
          await ioctl("reload", `${name} (253:${record.minor})`, () =>
            registry.load(name, lines, { readOnly: words.includes("-r") }),
          );
          await ioctl("resume", `${name} `, () => registry.resume(name));
        } catch (error) {
          await registry.remove(name);
          throw error;
        }
        return [];
      }
      case "load":
      case "reload": {
        const lines = parse(option("--table") ?? "");
        await ioctl("reload", `${name} `, () => registry.load(name, lines));
        return [];
      }
      case "resume":
        await ioctl("resume", `${name} `, () => registry.resume(name));
        return [];
      case "suspend":
        await ioctl("suspend", `${name} `, () => registry.suspend(name));
        return [];
      case "clear":
        await ioctl("clear", `${name} `, () => registry.clear(name));
        return [];
      case "remove":
        await ioctl("remove", `${name} `, () => registry.remove(name));
        return [];
      case "remove_all": {
        for (let gone = true; gone; ) {
          gone = false;
          for (const record of registry.records()) {
            if (registry.openCount(record) === 0) {
              await registry.remove(record.name);
              gone = true;
            }
          }
        }
        const left = registry.records().length;
        if (left > 0) this.#log.push(`device-mapper: ioctl: remove_all left ${left} open device(s)`);
        return [];
      }
      case "message":
        await ioctl("message", `${name} `, () =>
          registry.message(name, Number(words[1]), words.slice(2).join(" ").trim().split(/\s+/)),
        );
        return [];
      case "table": {
        const device = words.filter((each) => each !== "--inactive")[0]!;
        const record = registry.find(device);
        if (record === undefined) throw failure(`device-mapper: table ioctl on ${device}  failed: ${TEXTS.ENXIO}`);
        const lines = words.includes("--inactive") ? record.inactive?.lines : record.live;
        return lines === undefined ? [""] : lines.map(formatLine);
      }
      case "status": {
        const device = words.filter((each) => !each.startsWith("--"))[0];
        if (device === undefined) {
          const all: string[] = [];
          for (const { name: each } of registry.records()) {
            for (const row of await registry.status(each)) {
              all.push(`${each}: ${row.startSectors} ${row.lengthSectors} ${row.type} ${row.params}`);
            }
          }
          return all;
        }
        if (registry.find(device) === undefined) throw failure("Device does not exist.");
        const rows = await registry.status(device, { noflush: words.includes("--noflush") });
        return rows.length === 0
          ? [""]
          : rows.map((row) => `${row.startSectors} ${row.lengthSectors} ${row.type} ${row.params}`);
      }
      case "deps": {
        const numbers = registry.dependencies(registry.get(name));
        const shown = numbers.map((number) => `(${number.replace(":", ", ")})`).join(" ");
        return [`${numbers.length} dependencies\t: ${shown}`];
      }
      case "ls":
        return registry.records().length === 0
          ? ["No devices found"]
          : registry.records().map((record) => `${record.name}\t(253:${record.minor})`);
      case "info":
        return this.#info(words);
      default:
        throw new Error(`the test knows no dmsetup ${verb}`);
    }
  }

  #info(words: readonly string[]): readonly string[] {
    const columns = words[words.indexOf("-o") + 1]!.split(",");
    const name = words.length > words.indexOf("-o") + 2 ? words.at(-1)! : undefined;
    const records = name === undefined ? this.registry.records() : [this.registry.get(name)];
    const rows = records.map((record) => this.#columns(record, columns));
    return [
      rows[0]!.map(([heading]) => heading).join(" "),
      ...rows.map((row) => row.map(([, text]) => text).join(" ")),
    ];
  }

  #columns(record: DeviceRecord, columns: readonly string[]): readonly (readonly [string, string])[] {
    const attributes = `${record.live ? "L" : "-"}${record.inactive ? "I" : "-"}${record.suspended ? "s" : "-"}${record.readOnly ? "r" : "w"}`;
    const heading: Readonly<Record<string, readonly [string, string]>> = {
      name: ["Name".padEnd(16), record.name.padEnd(16)],
      attr: ["Stat", attributes],
      open: ["Open", String(this.registry.openCount(record)).padStart(4)],
      events: ["Event ", String(record.eventNr).padStart(6)],
      suspended: ["Suspended", record.suspended ? "Suspended" : ""],
    };
    return columns.map((column) => heading[column]!);
  }
}

function parse(text: string) {
  try {
    return parseTable(text);
  } catch (error) {
    const { message } = error as Error;
    const line = /on line (\d+)/.exec(message)?.[1];
    throw failure(line === undefined ? `T${message.slice(1)}.` : `Invalid format on line ${line} of table .`);
  }
}

function failure(line: string): Error {
  return Object.assign(new Error(line), { lines: [line] });
}

/** Words as sh reads them: blanks, quotes of both kinds, backslashes within double quotes. */
function shellWords(command: string): string[] {
  const words: string[] = [];
  for (const match of command.matchAll(/(?:[^\s"']|"(?:[^"\\]|\\.)*"|'[^']*')+/gs)) {
    words.push(
      match[0].replaceAll(/"((?:[^"\\]|\\.)*)"|'([^']*)'/gs, (_all, double: string | undefined, single: string) =>
        double === undefined ? single : double.replaceAll(/\\([\\"$`])/g, "$1"),
      ),
    );
  }
  return words;
}
