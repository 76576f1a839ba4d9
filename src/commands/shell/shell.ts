/**
 * The prompt. readline has the terminal only while a line is typed: a command that runs gets it as it would have it from
 * any shell, may ask questions and be interrupted. Commands on thin devices, and those that look at things, leave the pools
 * open for the next one, until another process wants them or a few seconds have passed.
 */

import { join } from "node:path";
import { createInterface } from "node:readline";
import { Writable } from "node:stream";
import { UsageError } from "../../errors/index.js";
import { inheritedOptions } from "../batch/batch.js";
import { isHoldable, mayAsk, refuseOuter } from "../batch/holdable.js";
import { splitWords } from "../batch/words.js";
import type { Context, Failure } from "../context.js";
import { completeLine, gatherKnowledge, type Knowledge } from "./complete-line.js";
import { History } from "./history.js";

export const ENDING_WORDS: readonly string[] = ["exit", "quit"];

const HISTORY_FILE = "shell_history";
const DEFAULT_COLUMNS = 80;
const WELCOME = "Tab completes, help lists the commands, exit or Ctrl-D ends";

type Typed =
  | {
      readonly kind: "lines";
      readonly lines: readonly string[];
      /** Typed ahead. */
      readonly rest: string;
    }
  | { readonly kind: "interrupted" }
  | { readonly kind: "end" };

/** Looks like a stream to those who print; keeps what they print. */
class HeldOutput extends Writable {
  readonly isTTY: boolean;
  readonly columns: number;
  readonly #stream: NodeJS.WritableStream;
  readonly #chunks: Buffer[] = [];

  constructor(stream: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number }) {
    super();
    this.#stream = stream;
    this.isTTY = stream.isTTY === true;
    this.columns = stream.columns ?? DEFAULT_COLUMNS;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#chunks.push(chunk);
    done();
  }

  show(): void {
    if (this.#chunks.length > 0) this.#stream.write(Buffer.concat(this.#chunks));
  }
}

export class Shell {
  readonly #context: Context;
  readonly #history: History;
  readonly #prefix: readonly string[];
  #status = 0;
  /** Pools may be open since the last command. */
  #isResting = false;
  /** Undefined for the first moment. */
  #knowledge: Knowledge | undefined;

  constructor(context: Context) {
    this.#context = context;
    this.#history = History.open(join(context.directories.stateDir, HISTORY_FILE));
    this.#prefix = inheritedOptions(context);
  }

  /** @returns the status of the last command */
  async run(): Promise<number> {
    this.#context.note(WELCOME);
    gatherKnowledge(this.#context).then(
      (knowledge) => {
        this.#knowledge = knowledge;
      },
      () => undefined,
    );
    const palette = await this.#context.palette("stdout");
    let unfinished = "";
    let rest = "";
    for (;;) {
      const prompt = unfinished === "" ? `${palette.good("udm>")} ` : "...> ";
      const typed = await this.#read(prompt, rest);
      rest = "";
      if (typed.kind === "end") {
        if (unfinished === "") return this.#status;
        unfinished = "";
        continue;
      }
      if (typed.kind === "interrupted") {
        unfinished = "";
        continue;
      }
      rest = typed.rest;
      for (const line of typed.lines) {
        const text = unfinished === "" ? line : `${unfinished}\n${line}`;
        const words = await this.#wordsOf(text);
        unfinished = words === undefined ? text : "";
        if (words === undefined) continue;
        this.#history.add(text);
        if (words.length === 1 && ENDING_WORDS.includes(words[0]!)) return this.#status;
        if (words.length > 0) await this.#runLine(words);
      }
    }
  }

  /** Undefined when the line goes on. */
  async #wordsOf(text: string): Promise<readonly string[] | undefined> {
    try {
      const split = splitWords(text);
      if (split.kind === "unfinished") return undefined;
      return split.words[0] === "udm" ? split.words.slice(1) : split.words;
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      await this.#complain(error);
      return [];
    }
  }

  async #runLine(words: readonly string[]): Promise<void> {
    let failure: Failure | undefined;
    try {
      refuseOuter(words, "shell");
      if (await this.#runHeld(words)) return;
      await this.#letGo();
      this.#status = await this.#context.runLine([...this.#prefix, ...words], {
        streams: this.#context.streams,
        onFailure: (told) => {
          failure = told;
        },
      });
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      this.#status = error.exitStatus;
      failure = error;
    }
    if (failure !== undefined) await this.#complain(failure);
  }

  /**
   * As a group of its own, after which the pools stay open. What it prints is shown once it is committed. One that fails
   * is undone, and runs by itself. @returns whether it is done
   */
  async #runHeld(words: readonly string[]): Promise<boolean> {
    const isAsking = mayAsk(words) && !this.#context.globals.yes;
    if (!isHoldable(words) || isAsking || this.#context.globals.dryRun || words.includes("--dry-run")) return false;
    const { stdin, stdout, stderr } = this.#context.streams;
    const [out, complaints] = [new HeldOutput(stdout), new HeldOutput(stderr)];
    const host = await this.#context.host();
    try {
      await host.begin("shell", { caches: "refused" });
      const streams = { stdin, stdout: out, stderr: complaints };
      const status = await this.#context.runLine([...this.#prefix, ...words], { streams, onFailure: () => undefined });
      if (status !== 0) {
        await host.undo();
        return false;
      }
      await host.commit();
      this.#isResting = true;
    } catch {
      // By itself it says what is wrong.
      await host.undo().catch(() => undefined);
      return false;
    }
    this.#status = 0;
    complaints.show();
    out.show();
    return true;
  }

  /** A command by itself may want the devices that pools rest on. */
  async #letGo(): Promise<void> {
    if (!this.#isResting) return;
    this.#isResting = false;
    const host = await this.#context.host();
    await host.begin("shell", { caches: "left" });
    await host.undo();
  }

  async #complain({ message, hint }: Pick<Failure, "message" | "hint">): Promise<void> {
    const { stderr } = this.#context.streams;
    const palette = await this.#context.palette("stderr");
    stderr.write(`${palette.error("udm:")} ${message}\n`);
    if (hint !== undefined) stderr.write(`${palette.hint(`hint: ${hint}`)}\n`);
  }

  /** One line, or several that were pasted at once. */
  #read(prompt: string, typedAhead: string): Promise<Typed> {
    const { stdin: input, stdout: output } = this.#context.streams;
    const lines = createInterface({
      input,
      output,
      terminal: true,
      prompt,
      history: this.#history.newestFirst,
      historySize: 1000,
      completer: (text: string) => (this.#knowledge === undefined ? [[], text] : completeLine(this.#knowledge, text)),
    });
    return new Promise((resolve) => {
      const read: string[] = [];
      let isInterrupted = false;
      lines.on("SIGINT", () => {
        isInterrupted = true;
        output.write("^C\n");
        resolve({ kind: "interrupted" });
        lines.close();
      });
      lines.on("line", (line) => {
        read.push(line);
        if (read.length > 1) return;
        // What came in the same piece of input comes as further events of this turn.
        setImmediate(() => {
          resolve({ kind: "lines", lines: read, rest: lines.line });
          lines.close();
        });
      });
      lines.on("close", () => {
        if (read.length > 0 || isInterrupted) return;
        output.write("\n");
        resolve({ kind: "end" });
      });
      lines.prompt();
      if (typedAhead !== "") lines.write(typedAhead);
    });
  }
}
