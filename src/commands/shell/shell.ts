/**
 * The prompt. readline has the terminal only while a line is typed: a command that runs gets it as it would have it from
 * any shell, may ask questions and be interrupted. Between commands nothing is locked, open or claimed.
 */

import { join } from "node:path";
import { createInterface } from "node:readline";
import { UsageError } from "../../errors/index.js";
import { inheritedOptions } from "../batch/batch.js";
import { refuseOuter } from "../batch/holdable.js";
import { splitWords } from "../batch/words.js";
import type { Context, Failure } from "../context.js";
import { completeLine, gatherKnowledge, type Knowledge } from "./complete-line.js";
import { History } from "./history.js";

export const ENDING_WORDS: readonly string[] = ["exit", "quit"];

const HISTORY_FILE = "shell_history";
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

export class Shell {
  readonly #context: Context;
  readonly #history: History;
  readonly #prefix: readonly string[];
  #status = 0;
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
