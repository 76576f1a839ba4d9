/**
 * The program: finds the command in the words given, lets it parse the rest, runs it, and turns every failure into
 * one line, a hint and an exit status. Source of the statuses: the command line's specification, section 1.
 */
import type { CommanderError } from "commander";
import {
  addGlobalOptions,
  COMMANDS,
  type CommandEntry,
  Context,
  type Environment,
  FAMILIES,
  type Failure,
  HIDDEN_COMMANDS,
  loadThinTools,
  type OpenHost,
  readGlobals,
  refuseColumns,
  type Streams,
  splitAtWord,
  type ThinTool,
} from "./commands/index.js";
import { codeOf, InvariantError, messageOf, UdmError, UsageError } from "./errors/index.js";
import { nearestWord } from "./ui/index.js";
import { VERSION } from "./version.js";

export interface MainOptions {
  readonly environment: Environment;
  readonly isRoot: boolean;
  /** The home of the host; in this process unless another is given. */
  readonly openHost?: OpenHost;
  /** Ends the command; what was reported as done stays. */
  readonly interrupt?: AbortSignal;
  /** Words that run this program, for what goes on in the background. */
  readonly program?: readonly string[];
  /** Failures are told to it, not printed: the line belongs to another command. */
  readonly onFailure?: (failure: Failure) => void;
}

/** What a shell sees of a program that ended by SIGINT. */
const INTERRUPTED = 130;
/** How long an interrupted command may take to let go. */
const PATIENCE_MS = 1000;
/** And one that takes away what it had begun. */
const UNWINDING_MS = 30_000;

/** The next step where whoever found the failure named none: mostly what a file system answered. */
const HINTS: Readonly<Record<string, string>> = {
  ENOENT: "check the path; a relative one starts at the present directory",
  ENOTDIR: "a part of the path is a file",
  EISDIR: "name a file, not a directory",
  EACCES: "check who may read and write it; block devices mostly need root",
  EPERM: "this may need root",
  EROFS: "it is read-only, or its file system is",
  ENOSPC: "make room on the file system below",
  EIO: "the system's log may tell more about the device below",
};

/** Runs one command line, `argv` without node and the program's name. @returns the exit status */
export async function main(argv: readonly string[], streams: Streams, options: MainOptions): Promise<number> {
  const context = new Context({
    streams,
    ...options,
    version: VERSION,
    runLine: (words, line) => main(words, line.streams, { ...options, ...line }),
  });
  // Known before parsing succeeds, so that a usage error is JSON too.
  const wantsJson = argv.slice(0, argv.includes("--") ? argv.indexOf("--") : undefined).includes("--json");
  let status: number;
  const work = dispatch(argv, context);
  try {
    status = await untilInterrupted(work, options.interrupt, context);
  } catch (error) {
    status = await report(error, context, wantsJson, options.onFailure);
  }
  if (status === INTERRUPTED) {
    await letGo(context, work);
    return status;
  }
  try {
    await context.close();
  } catch (error) {
    if (status === 0) status = await report(error, context, wantsJson, options.onFailure);
  }
  return status;
}

/**
 * A program of thin-provisioning-tools, done by our commands: its options, output and exit status.
 * @param name such as thin_check
 */
export async function thinToolMain(
  name: string,
  argv: readonly string[],
  streams: Streams,
  options: MainOptions,
): Promise<number> {
  const { answerOf, failureText, THIN_TOOLS } = await loadThinTools();
  const tool = THIN_TOOLS[name];
  if (tool === undefined) throw new InvariantError(`no program ${name}`);
  const answer = answerOf(name, tool, argv);
  if (answer.kind === "own") {
    streams.stdout.write(answer.stdout);
    streams.stderr.write(answer.stderr);
    return answer.status;
  }
  const { words, given } = answer;
  const status = await main(words, withOutput(tool.isSilent === true ? () => "" : tool.output), {
    ...options,
    onFailure: (failure) => streams.stderr.write(failureText(name, tool, failure, given)),
  });
  return status === 0 || status === INTERRUPTED ? status : (tool.failureStatus ?? 1);

  function withOutput(rewrite: ThinTool["output"]): Streams {
    if (rewrite === undefined) return streams;
    const write = (text: string) => streams.stdout.write(rewrite(given, text));
    return Object.assign(Object.create(streams), { stdout: Object.assign(Object.create(streams.stdout), { write }) });
  }
}

/**
 * After an interrupt: what waits for input is told that none will come, and the host may finish the step it is in. What
 * takes longer is left to the process's end, which loses nothing that was committed.
 */
async function letGo(context: Context, work: Promise<unknown>): Promise<void> {
  const { stdin } = context.streams;
  if ("destroy" in stdin && typeof stdin.destroy === "function") stdin.destroy();
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, context.isUnwinding ? UNWINDING_MS : PATIENCE_MS);
  });
  const unwound = context.isUnwinding ? work.then(close, close) : close();
  await Promise.race([unwound, patience]);
  clearTimeout(timer);

  function close(): Promise<void> {
    return context.close().catch(() => undefined);
  }
}

function untilInterrupted(
  work: Promise<number>,
  interrupt: AbortSignal | undefined,
  context: Context,
): Promise<number> {
  if (interrupt === undefined) return work;
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      if (!context.takesInterrupt) resolve(INTERRUPTED);
    };
    interrupt.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => interrupt.removeEventListener("abort", onAbort));
  });
}

async function dispatch(argv: readonly string[], context: Context): Promise<number> {
  const first = splitAtWord(argv);
  if (first.asksVersion) {
    context.line(`udm ${VERSION}`);
    return 0;
  }
  if (first.word === undefined || first.word === "help") return help(argv, first, context);
  const family = FAMILIES.find((each) => each.name === first.word);
  if (family === undefined) {
    const single = [...COMMANDS.filter((each) => each.family === undefined), ...HIDDEN_COMMANDS];
    const entry = single.find((each) => each.name === first.word);
    if (entry === undefined) throw unknownWord(first.word, topWords(), "udm", "udm --help lists the commands");
    return run(entry, [...first.hoisted, ...first.rest, ...(first.asksHelp ? ["--help"] : [])], context);
  }
  const second = splitAtWord(first.rest);
  const verbs = COMMANDS.filter((each) => each.family === family.name);
  const asksHelp = first.asksHelp || second.asksHelp;
  if (second.word === undefined) {
    if (asksHelp) {
      context.lines(familyHelp(family.name));
      return 0;
    }
    throw new UsageError(`${family.name}: a command is missing`, {
      hint: `one of ${verbs.map((verb) => verb.name).join(" ")}; see udm ${family.name} --help`,
    });
  }
  const entry = verbs.find((verb) => verb.name === second.word);
  if (entry === undefined) {
    const names = verbs.map((verb) => verb.name);
    throw unknownWord(second.word, names, `udm ${family.name}`, `udm ${family.name} has ${names.join(" ")}`);
  }
  return run(entry, [...first.hoisted, ...second.hoisted, ...second.rest, ...(asksHelp ? ["--help"] : [])], context);
}

async function run(entry: CommandEntry, words: readonly string[], context: Context): Promise<number> {
  const title = entry.family === undefined ? entry.name : `${entry.family} ${entry.name}`;
  const factory = await entry.load();
  const command = factory(context).name(`udm ${title}`).summary(entry.summary);
  addGlobalOptions(command);
  command.exitOverride().configureOutput({
    writeOut: (text) => context.streams.stdout.write(text),
    writeErr: () => undefined,
    outputError: () => undefined,
  });
  command.hook("preAction", () => {
    refuseColumns(command, title);
    context.useGlobals(readGlobals(command.opts()));
  });
  try {
    await command.parseAsync([...words], { from: "user" });
  } catch (error) {
    if (!isCommanderError(error)) throw error;
    if (error.exitCode === 0) return 0;
    throw usageErrorOf(error, title);
  }
  return context.exitStatus;
}

/** By its code: names of classes change when they are bundled. */
function isCommanderError(error: unknown): error is CommanderError {
  return error instanceof Error && (codeOf(error) ?? "").startsWith("commander.");
}

/** commander's message, which may have its suggestion on a second line, as ours. */
function usageErrorOf(error: CommanderError, title: string): UsageError {
  const [what = "", suggestion] = error.message.replace(/^error: /, "").split("\n");
  const hint = suggestion === undefined ? "" : `${suggestion.replace(/^\((.*)\)$/, "$1").replace("Did", "did")} `;
  return new UsageError(`${title}: ${what.replace(/\.$/, "")}`, { hint: `${hint}see udm ${title} --help` });
}

function unknownWord(word: string, known: readonly string[], program: string, list: string): UsageError {
  const near = nearestWord(word, known);
  return new UsageError(`unknown command '${word}'`, {
    hint: near === undefined ? list : `did you mean ${program} ${near}?`,
  });
}

function topWords(): readonly string[] {
  const single = COMMANDS.filter((each) => each.family === undefined).map((each) => each.name);
  return [...FAMILIES.map((family) => family.name), ...single, "help"];
}

/** `udm help [FAMILY [VERB]]`, `udm --help`, and `udm` alone, which is wrong usage. */
async function help(argv: readonly string[], first: ReturnType<typeof splitAtWord>, context: Context): Promise<number> {
  if (first.word === undefined && !first.asksHelp) {
    if (argv.length > 0) throw new UsageError("a command is missing", { hint: "udm --help lists the commands" });
    context.streams.stderr.write(`${overview().join("\n")}\n`);
    return 2;
  }
  const [family, verb] = first.rest;
  if (first.word === "help" && family !== undefined) {
    return dispatch(verb === undefined ? [family, "--help"] : [family, verb, "--help"], context);
  }
  context.lines(overview());
  return 0;
}

function overview(): readonly string[] {
  const lines = ["Usage: udm [options] COMMAND ...", "", "A device mapper in user space.", ""];
  for (const family of FAMILIES) {
    lines.push(`${family.name}: ${family.summary}`);
    for (const each of COMMANDS) if (each.family === family.name) lines.push(entryLine(each));
    lines.push("");
  }
  lines.push("other commands:");
  for (const each of COMMANDS) if (each.family === undefined) lines.push(entryLine(each));
  return [...lines, "", "udm COMMAND --help tells more; so does man udm."];
}

function familyHelp(family: string): readonly string[] {
  const verbs = COMMANDS.filter((each) => each.family === family);
  return [
    `Usage: udm ${family} COMMAND ...`,
    "",
    ...verbs.map(entryLine),
    "",
    `udm ${family} COMMAND --help tells more.`,
  ];
}

function entryLine(entry: CommandEntry): string {
  const words = entry.family === undefined ? entry.name : `${entry.family} ${entry.name}`;
  return `  ${words.padEnd(18)} ${entry.summary}`;
}

/** Prints a failure: one line and a hint, or a JSON document. Nothing when nobody reads our output any more. */
async function report(
  error: unknown,
  context: Context,
  wantsJson: boolean,
  onFailure: MainOptions["onFailure"],
): Promise<number> {
  if (codeOf(error) === "EPIPE") return 0;
  const failure = asUdmError(error);
  const { stderr } = context.streams;
  const hint = failure.hint ?? HINTS[failure.code];
  if (onFailure !== undefined) {
    onFailure({ code: failure.code, message: oneLine(failure.message), hint });
    return failure.exitStatus;
  }
  if (wantsJson) {
    const { code, message } = failure;
    stderr.write(`${JSON.stringify({ error: { code, message, hint: hint ?? null } })}\n`);
    return failure.exitStatus;
  }
  const palette = await context.palette("stderr");
  stderr.write(`${palette.error("udm:")} ${oneLine(failure.message)}\n`);
  if (hint !== undefined) stderr.write(`${palette.hint(`hint: ${oneLine(hint)}`)}\n`);
  return failure.exitStatus;
}

/** System errors keep their code; anything else that was thrown is a mistake of ours. */
function asUdmError(error: unknown): UdmError {
  if (error instanceof UdmError) return error;
  const code = codeOf(error);
  if (code !== undefined && /^E[A-Z0-9]+$/.test(code) && !code.startsWith("ERR_")) {
    return new UdmError(code as UdmError["code"], messageOf(error), { cause: error });
  }
  return new InvariantError(messageOf(error), { cause: error });
}

function oneLine(text: string): string {
  return text.replaceAll(/\s*\n\s*/g, " ");
}
