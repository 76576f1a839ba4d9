/**
 * Synopsis and options of the manual pages, generated from the commands' own declarations. They stand in the pages
 * between two marks; everything around them is written by hand.
 */
import type { Argument, Command, Option } from "commander";
import type { Context } from "./context.js";
import { COMMANDS, globalOptions } from "./index.js";
import type { Shape } from "./schema/shape.js";

/** Page of each family, and of each command of one word; some share one. */
export const FAMILY_PAGES: Readonly<Record<string, string>> = {
  loop: "udm-loop.8",
  pool: "udm-pool.8",
  thin: "udm-thin.8",
  table: "udm-table.8",
  device: "udm-device.8",
  metadata: "udm-metadata.8",
  daemon: "udm-daemon.8",
  attach: "udm-attach.8",
  detach: "udm-attach.8",
  mount: "udm-mount.8",
  umount: "udm-mount.8",
  serve: "udm-serve.8",
  lsblk: "udm-lsblk.8",
  status: "udm-status.8",
  doctor: "udm-doctor.8",
  monitor: "udm-monitor.8",
  events: "udm-events.8",
  batch: "udm-batch.8",
  shell: "udm-shell.8",
  completion: "udm-completion.8",
  schema: "udm-json.5",
};

export type Section = "synopsis" | "options" | "common-options" | "commands" | "documents" | "findings";

const SECTIONS: readonly Section[] = ["synopsis", "options", "common-options", "commands", "documents", "findings"];

const BEGIN = (section: Section) => `.\\" Generated ${section}: do not edit, npm run man writes it.`;
const END = (section: Section) => `.\\" End of generated ${section}.`;

/** Fills the marked sections of a page. @throws Error when a mark has no end */
export async function fillPage(page: string, family: string | undefined, context: Context): Promise<string> {
  let filled = page;
  for (const section of SECTIONS) {
    const start = filled.indexOf(`${BEGIN(section)}\n`);
    if (start < 0) continue;
    const bodyStart = start + BEGIN(section).length + 1;
    const end = filled.indexOf(END(section), bodyStart);
    if (end < 0) throw new Error(`the mark of the generated ${section} has no end`);
    const lines = await sectionLines(section, family, context);
    filled =
      filled.slice(0, bodyStart) +
      lines
        .flatMap(wrapped)
        .map((line) => `${line}\n`)
        .join("") +
      filled.slice(end);
  }
  return filled;
}

async function sectionLines(section: Section, family: string | undefined, context: Context): Promise<string[]> {
  switch (section) {
    case "common-options":
      return globalOptions().flatMap(optionLines);
    case "commands":
      return COMMANDS.flatMap((entry) => {
        const words = entry.family === undefined ? entry.name : `${entry.family} ${entry.name}`;
        return [".TP", `\\fBudm ${escaped(words)}\\fR`, `${sentence(entry.summary)}`];
      });
    case "documents":
      return documentLines();
    case "findings":
      return findingLines();
    case "synopsis":
      return (await commandsOf(family, context)).flatMap(synopsisLines);
    case "options":
      return (await commandsOf(family, context)).flatMap(commandLines);
  }
}

/** Every document of --json, with its keys. */
async function documentLines(): Promise<string[]> {
  const { DOCUMENTS, NOUNS } = await import("./schema/documents.js");
  return NOUNS.flatMap((noun) => {
    const { tells, commands, shape } = DOCUMENTS[noun];
    return [".TP", `\\fB${noun}\\fR`, escaped(tells), `Of ${escaped(commands.join(", "))}.`, ...keyLines(shape)];
  });
}

/** Everything that a check can find: id, severity, meaning, what to do. */
async function findingLines(): Promise<string[]> {
  const { FINDINGS } = await import("../thin/index.js");
  return Object.entries(FINDINGS).flatMap(([id, { severity, meaning, advice }]) => [
    ".TP",
    `\\fB${escaped(id)}\\fR (${severity})`,
    ...sentences(meaning),
    `What to do: ${escaped(advice)}.`,
  ]);
}

function keyLines(shape: Shape): readonly string[] {
  switch (shape.kind) {
    case "record":
      return [".RS", ...Object.entries(shape.fields).flatMap(([key, field]) => keyEntry(key, field)), ".RE"];
    case "list":
    case "orNull":
    case "optional":
      return keyLines(shape.of);
    default:
      return [];
  }
}

function keyEntry(key: string, field: Shape): readonly string[] {
  const tells = field.tells === "" ? "" : `: ${escaped(field.tells)}`;
  return [".TP", `\\fI${escaped(key)}\\fR`, `${escaped(kindText(field))}${tells}.`, ...keyLines(field)];
}

function kindText(shape: Shape): string {
  switch (shape.kind) {
    case "word":
      return shape.words.join(" or ");
    case "orNull":
      return `${kindText(shape.of)} or null`;
    case "optional":
      return `${kindText(shape.of)}, where it applies`;
    case "list":
      return `list of ${shape.of.kind === "record" ? "records" : kindText(shape.of)}`;
    case "flag":
      return "true or false";
    default:
      return shape.kind;
  }
}

async function commandsOf(family: string | undefined, context: Context): Promise<readonly Command[]> {
  const page = family === undefined ? undefined : FAMILY_PAGES[family];
  const own = COMMANDS.filter((entry) => page !== undefined && FAMILY_PAGES[entry.family ?? entry.name] === page);
  return Promise.all(
    own.map(async (entry) => {
      const words = entry.family === undefined ? entry.name : `${entry.family} ${entry.name}`;
      return (await entry.load())(context).name(`udm ${words}`);
    }),
  );
}

function synopsisLines(command: Command): readonly string[] {
  const words = command.registeredArguments.map(argumentText);
  const options = command.options.filter((option) => !option.hidden).map(optionSynopsis);
  return [".HP", `\\fB${escaped(command.name())}\\fR`, ...words, ...options];
}

function commandLines(command: Command): readonly string[] {
  const lines = [
    `.SS "${escaped(command.name())} ${command.registeredArguments.map(plainArgument).join(" ")}"`.replace(/ "$/, '"'),
  ];
  lines.push(...sentences(command.description()));
  for (const argument of command.registeredArguments) {
    lines.push(".TP", argumentText(argument), sentence(argument.description));
  }
  for (const option of command.options) lines.push(...optionLines(option));
  return lines;
}

function optionLines(option: Option): readonly string[] {
  const flags = option.flags
    .split(", ")
    .map((flag) => {
      const [name = "", value] = flag.split(" ");
      return value === undefined
        ? `\\fB${escaped(name)}\\fR`
        : `\\fB${escaped(name)}\\fR \\fI${escaped(bare(value))}\\fR`;
    })
    .join(", ");
  const fallback =
    option.defaultValue === undefined || typeof option.defaultValue === "boolean"
      ? ""
      : ` (default ${option.defaultValue})`;
  return [".TP", flags, sentence(`${option.description}${fallback}`)];
}

function optionSynopsis(option: Option): string {
  const [name = "", value] = (option.long ?? option.flags).split(" ");
  const argument = value ?? /<[^>]+>/.exec(option.flags)?.[0];
  const text = `\\fB${escaped(name)}\\fR${argument === undefined ? "" : ` \\fI${escaped(bare(argument))}\\fR`}`;
  return option.mandatory ? text : `[${text}]`;
}

function argumentText(argument: Argument): string {
  const text = `\\fI${escaped(argument.name())}\\fR${argument.variadic ? " ..." : ""}`;
  return argument.required ? text : `[${text}]`;
}

function plainArgument(argument: Argument): string {
  const text = `${escaped(argument.name())}${argument.variadic ? " ..." : ""}`;
  return argument.required ? text : `[${text}]`;
}

function bare(value: string): string {
  return value.replaceAll(/[<>[\]]/g, "");
}

function sentence(text: string): string {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return escaped(/[.)]$/.test(first) && !first.endsWith("...)") ? first.replace(/\)$/, ").") : `${first}.`);
}

/** One sentence a line, as manual pages are written. */
function sentences(text: string): readonly string[] {
  return escaped(text)
    .split(/(?<=\.) (?=[A-Z])/)
    .filter((line) => line !== "");
}

/** Text as troff takes it: hyphens that are typed, backslashes, a period or quote at the start of a line. */
export function escaped(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll(/^([.'])/gm, "\\&$1");
}

/** Lines of text end before column 80; requests stay whole. */
function wrapped(line: string): readonly string[] {
  if (line.startsWith(".") || line.length < 80) return [line];
  const lines: string[] = [];
  let current = "";
  for (const word of line.split(" ")) {
    if (current !== "" && current.length + word.length + 1 >= 80) {
      lines.push(current);
      current = word;
    } else {
      current = current === "" ? word : `${current} ${word}`;
    }
  }
  return [...lines, current];
}
