/** What a batch tells of its lines: their output as it is, or one JSON document that grows line by line. */
import type { Context, Failure } from "../context.js";
import { DOCUMENT_VERSION } from "../document-version.js";
import type { CommandLine } from "./line-reader.js";

export interface Outcome {
  readonly line: CommandLine;
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly failure: Failure | undefined;
}

export class BatchReport {
  readonly #context: Context;
  readonly #isAtomic: boolean;
  #done = 0;
  #failed = 0;
  #status = 0;
  #isBegun = false;

  constructor(context: Context, options: { readonly isAtomic: boolean }) {
    this.#context = context;
    this.#isAtomic = options.isAtomic;
  }

  /** Status of the first line that failed. */
  get status(): number {
    return this.#status;
  }

  /** Told once the line is done for good. */
  async tell(outcome: Outcome): Promise<void> {
    const { line, status, failure } = outcome;
    if (status === 0) this.#done++;
    else this.#failed++;
    if (this.#status === 0) this.#status = status;
    const { streams, globals } = this.#context;
    streams.stderr.write(outcome.stderr);
    if (globals.json) this.#write(outcome);
    else streams.stdout.write(outcome.stdout);
    if (failure !== undefined) await this.#complain(line.number, failure);
    if (globals.verbose) this.#context.note(`line ${line.number}: ${status === 0 ? "done" : `status ${status}`}`);
  }

  /** The end of the JSON document. */
  end(): void {
    if (!this.#context.globals.json) return;
    this.#begin();
    const last = { done: this.#done, failed: this.#failed, status: this.#status };
    this.#context.streams.stdout.write(`\n], ${JSON.stringify(last).slice(1)}\n`);
  }

  #begin(): void {
    if (this.#isBegun) return;
    this.#context.streams.stdout.write(`{"version": ${DOCUMENT_VERSION}, "atomic": ${this.#isAtomic}, "lines": [`);
    this.#isBegun = true;
  }

  #write({ line, status, stdout, failure }: Outcome): void {
    const separator = this.#isBegun ? ",\n" : "\n";
    this.#begin();
    const error = failure === undefined ? null : { ...failure, hint: failure.hint ?? null };
    const entry = { line: line.number, command: line.words, status, result: parsed(stdout), error };
    this.#context.streams.stdout.write(`${separator}${JSON.stringify(entry)}`);
  }

  async #complain(number: number, { code, message, hint }: Failure): Promise<void> {
    const { stderr } = this.#context.streams;
    const text = `line ${number}: ${message}`;
    if (this.#context.globals.json) {
      stderr.write(`${JSON.stringify({ error: { code, message: text, hint: hint ?? null } })}\n`);
      return;
    }
    const palette = await this.#context.palette("stderr");
    stderr.write(`${palette.error("udm:")} ${text}\n`);
    if (hint !== undefined) stderr.write(`${palette.hint(`hint: ${hint}`)}\n`);
  }
}

/** A command's own document; its text where it has none. */
function parsed(stdout: string): unknown {
  if (stdout.trim() === "") return null;
  try {
    return JSON.parse(stdout);
  } catch {
    return stdout;
  }
}
