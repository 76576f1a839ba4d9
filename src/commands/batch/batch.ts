/**
 * Lines one after the other with one host. Consecutive lines that change only state and metadata form a group, which is
 * committed as one; what they print is held back until then, so that a line is reported when it is durable. A group ends
 * after a moment, or when the next line is not there yet, so a pipe that is idle holds nothing.
 *
 * When a line fails inside a group, the group is undone, the lines before it are run again and committed, and the line
 * is run by itself: what it then says and does is what it would have said and done without groups.
 */
import { Readable, Writable } from "node:stream";
import { UsageError } from "../../errors/index.js";
import type { Host } from "../../host/index.js";
import type { Context, Failure, Streams } from "../context.js";
import { isHoldable, isRaw, refuseOuter, verbOf } from "./holdable.js";
import { type CommandLine, LineError, LineReader } from "./line-reader.js";
import { BatchReport, type Outcome } from "./report.js";

export interface BatchOptions {
  readonly keepGoing: boolean;
  readonly atomic: boolean;
  /** Standard input is not where the lines come from. */
  readonly hasInput: boolean;
  /** A line of one of these words is the last one. */
  readonly endingWords?: readonly string[];
}

const GROUP_MS = 200;
const MAX_GROUP = 500;
const PURPOSE = "batch";

export class Batch {
  readonly #context: Context;
  readonly #options: BatchOptions;
  readonly #report: BatchReport;
  readonly #prefix: readonly string[];
  /** Done in the group that is not committed yet. */
  #pending: Outcome[] = [];
  #groupSinceMs = 0;
  #isResting = false;

  constructor(context: Context, options: BatchOptions) {
    this.#context = context;
    this.#options = options;
    this.#report = new BatchReport(context, { isAtomic: options.atomic });
    this.#prefix = inheritedOptions(context);
  }

  /** @returns the status of the first line that failed */
  async run(input: AsyncIterable<string | Uint8Array>): Promise<number> {
    const reader = new LineReader(input);
    if (this.#context.globals.dryRun) await this.#rehearse(reader);
    else if (this.#options.atomic) await this.#runAtomic(reader);
    else await this.#runLines(reader);
    this.#report.end();
    return this.#report.status;
  }

  async #runLines(reader: LineReader): Promise<void> {
    const host = await this.#context.host();
    for (;;) {
      const read = await nextLine(reader);
      if (read === undefined || this.#isEnd(read.line)) break;
      const goesOn = read.failure === undefined ? await this.#runOne(host, read.line) : await this.#refuse(host, read);
      if (!goesOn) return;
      if (!this.#isTimeToCommit(reader)) continue;
      if (!(await this.#commit(host))) return;
    }
    await this.#commit(host);
  }

  #isEnd({ words }: CommandLine): boolean {
    return words.length === 1 && this.#options.endingWords?.includes(words[0]!) === true;
  }

  #isTimeToCommit(reader: LineReader): boolean {
    if (this.#pending.length === 0) return false;
    const isLong = this.#pending.length >= MAX_GROUP || performance.now() - this.#groupSinceMs >= GROUP_MS;
    return isLong || !reader.isReady;
  }

  /** @returns whether the next line is to be run */
  async #runOne(host: Host, line: CommandLine): Promise<boolean> {
    if (!isHoldable(line.words)) return (await this.#commit(host)) && this.#runAlone(line);
    if (this.#pending.length === 0) {
      const failure = await begin(host);
      if (failure !== undefined) return this.#tell({ line, status: 1, stdout: "", stderr: "", failure });
      this.#groupSinceMs = performance.now();
    }
    const outcome = await this.#capture(line);
    if (outcome.status === 0) {
      this.#pending.push(outcome);
      return true;
    }
    await host.undo();
    return (await this.#runAgain(host)) && this.#runAlone(line);
  }

  /** The lines of a group that was undone, once more. */
  async #runAgain(host: Host): Promise<boolean> {
    const lines = this.#pending.map(({ line }) => line);
    this.#pending = [];
    if (lines.length === 0) return true;
    if ((await begin(host)) === undefined) {
      for (const line of lines) {
        const outcome = await this.#capture(line);
        if (outcome.status !== 0) break;
        this.#pending.push(outcome);
      }
      if (this.#pending.length === lines.length) return this.#commit(host);
      await host.undo();
      this.#pending = [];
    }
    return this.#runEach(lines);
  }

  async #commit(host: Host): Promise<boolean> {
    const done = this.#pending;
    this.#pending = [];
    if (done.length === 0) return true;
    try {
      await host.commit();
    } catch {
      return this.#runEach(done.map(({ line }) => line));
    }
    this.#isResting = true;
    for (const outcome of done) await this.#tell(outcome);
    return true;
  }

  /** A line by itself may want the devices that pools rest on after a group. */
  async #letGo(): Promise<void> {
    if (!this.#isResting) return;
    this.#isResting = false;
    const host = await this.#context.host();
    if ((await begin(host)) === undefined) await host.undo();
  }

  async #runEach(lines: readonly CommandLine[]): Promise<boolean> {
    for (const line of lines) if (!(await this.#runAlone(line))) return false;
    return true;
  }

  /** Outside any group; its output goes where it belongs at once, unless it becomes part of a document. */
  async #runAlone(line: CommandLine): Promise<boolean> {
    await this.#letGo();
    if (this.#context.globals.json) return this.#tell(await this.#capture(line));
    const { stdout, stderr } = this.#context.streams;
    return this.#tell(await this.#runWith(line, { stdin: this.#stdin(), stdout, stderr }));
  }

  async #refuse(host: Host, read: { readonly line: CommandLine; readonly failure: Failure }): Promise<boolean> {
    const { line, failure } = read;
    return (await this.#commit(host)) && this.#tell({ line, status: 2, stdout: "", stderr: "", failure });
  }

  /** @returns whether the next line is to be run */
  async #tell(outcome: Outcome): Promise<boolean> {
    await this.#report.tell(outcome);
    return outcome.status === 0 || this.#options.keepGoing;
  }

  // All or nothing

  async #runAtomic(reader: LineReader): Promise<void> {
    const lines: CommandLine[] = [];
    for (;;) {
      const read = await nextLine(reader);
      if (read === undefined) break;
      const failure = read.failure ?? refusalOf(read.line);
      if (failure !== undefined) {
        await this.#tell({ line: read.line, status: 2, stdout: "", stderr: "", failure });
        return;
      }
      lines.push(read.line);
    }
    if (lines.length === 0) return;
    const host = await this.#context.host();
    await host.begin(`${PURPOSE} --atomic`);
    const done: Outcome[] = [];
    for (const line of lines) {
      const outcome = await this.#capture(line);
      if (outcome.status !== 0) {
        await host.undo();
        await this.#tell({ ...outcome, stdout: "" });
        this.#context.note("nothing was done");
        return;
      }
      done.push(outcome);
    }
    await host.commit();
    for (const outcome of done) await this.#tell(outcome);
  }

  // Nothing at all

  /** Each line's plan, as things are after the lines before it; in the end everything is undone. */
  async #rehearse(reader: LineReader): Promise<void> {
    const host = await this.#context.host();
    await beginRehearsal(host);
    try {
      for (;;) {
        const read = await nextLine(reader);
        if (read === undefined) return;
        const failure = read.failure ?? (this.#options.atomic ? refusalOf(read.line) : undefined);
        const { line } = read;
        if (failure !== undefined) {
          if (!(await this.#tell({ line, status: 2, stdout: "", stderr: "", failure }))) return;
          continue;
        }
        const plan = await this.#capture(line, ["--dry-run"]);
        if (!(await this.#tell(plan))) return;
        // A line that failed leaves the group to be undone; what follows is planned without the lines before.
        if (plan.status !== 0) await startAnew(host);
        else if (isHoldable(line.words) && (await this.#capture(line, ["--yes"])).status !== 0) await startAnew(host);
      }
    } finally {
      await host.undo();
    }
  }

  // One line

  #capture(line: CommandLine, more: readonly string[] = []): Promise<Outcome> {
    return this.#runWith(line, { stdin: this.#stdin(), stdout: new Collector(), stderr: new Collector() }, more);
  }

  async #runWith(line: CommandLine, streams: Streams, more: readonly string[] = []): Promise<Outcome> {
    let failure: Failure | undefined;
    let status: number;
    try {
      const { words } = line;
      refuseOuter(words, "batch");
      if (this.#context.globals.json && isRaw(words)) {
        throw new UsageError("bytes have no place in a JSON document", { hint: "write them to a file" });
      }
      status = await this.#context.runLine([...this.#prefix, ...more, ...words], {
        streams,
        onFailure: (told) => {
          failure = told;
        },
      });
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      failure = failureOf(error);
      status = error.exitStatus;
    }
    return { line, status, stdout: textOf(streams.stdout), stderr: textOf(streams.stderr), failure };
  }

  #stdin(): Streams["stdin"] {
    return this.#options.hasInput ? this.#context.streams.stdin : Readable.from([]);
  }
}

type Read = { readonly line: CommandLine; readonly failure: Failure | undefined };

async function nextLine(
  reader: LineReader,
): Promise<(Read & { readonly failure: undefined }) | (Read & { readonly failure: Failure }) | undefined> {
  try {
    const line = await reader.next();
    return line === undefined ? undefined : { line, failure: undefined };
  } catch (error) {
    if (!(error instanceof LineError)) throw error;
    return { line: { number: error.number, text: "", words: [] }, failure: failureOf(error) };
  }
}

function failureOf(error: UsageError): Failure {
  return { code: error.code, message: error.message, hint: error.hint };
}

/** The lock, or why it cannot be had. */
async function begin(host: Host): Promise<Failure | undefined> {
  try {
    await host.begin(PURPOSE, { caches: "refused" });
    return undefined;
  } catch (error) {
    const { code, message, hint } = error as Failure & Error;
    return { code, message, hint };
  }
}

async function startAnew(host: Host): Promise<void> {
  await host.undo();
  await beginRehearsal(host);
}

function beginRehearsal(host: Host): Promise<void> {
  return host.begin(`${PURPOSE} --dry-run`, { caches: "left" });
}

/** Why a line cannot be part of what happens as a whole. */
function refusalOf(line: CommandLine): Failure | undefined {
  try {
    const { words } = line;
    refuseOuter(words, "batch");
    if (isHoldable(words)) return undefined;
    const { family, name } = verbOf(words);
    return {
      code: "EUSAGE",
      message: `'${[family, name].filter((word) => word !== undefined).join(" ")}' cannot be part of an atomic batch`,
      hint: "commands on thin devices can, and those that look at things; do this before or after it",
    };
  } catch (error) {
    if (error instanceof UsageError) return failureOf(error);
    throw error;
  }
}

/** Options of the batch that hold for each of its lines. */
export function inheritedOptions({ globals }: Context): readonly string[] {
  return [
    ...(globals.json ? ["--json"] : []),
    ...(globals.quiet ? ["--quiet"] : []),
    ...(globals.yes ? ["--yes"] : []),
    ...(globals.headings ? [] : ["--no-headings"]),
    ...(globals.units === undefined ? [] : ["--units", globals.units]),
  ];
}

class Collector extends Writable {
  readonly chunks: Buffer[] = [];
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.chunks.push(chunk);
    done();
  }
}

function textOf(stream: NodeJS.WritableStream): string {
  return stream instanceof Collector ? Buffer.concat(stream.chunks).toString("utf8") : "";
}
