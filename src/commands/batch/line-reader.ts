/** Lines of a stream as commands: comments and blank lines left out, continued lines joined. */
import { UsageError } from "../../errors/index.js";
import { splitWords } from "./words.js";

const MAX_LINE_LENGTH = 1 << 20;

export interface CommandLine {
  /** Of its first line, from 1. */
  readonly number: number;
  readonly text: string;
  readonly words: readonly string[];
}

/** A line that is no command; told with its number. */
export class LineError extends UsageError {
  constructor(
    readonly number: number,
    message: string,
    hint: string | undefined,
  ) {
    super(message, hint === undefined ? {} : { hint });
  }
}

export class LineReader {
  readonly #chunks: AsyncIterator<string | Uint8Array>;
  readonly #decoder = new TextDecoder();
  readonly #lines: string[] = [];
  #rest = "";
  #hasEnded = false;
  #number = 0;

  constructor(input: AsyncIterable<string | Uint8Array>) {
    this.#chunks = input[Symbol.asyncIterator]();
  }

  /** The next command may be had without waiting, or there is none. */
  get isReady(): boolean {
    return this.#hasEnded || this.#lines.length > 0;
  }

  /** @throws LineError */
  async next(): Promise<CommandLine | undefined> {
    for (;;) {
      let text = await this.#nextLine();
      if (text === undefined) return undefined;
      const number = this.#number;
      for (;;) {
        const split = this.#split(text, number);
        if (split.kind === "words") {
          if (split.words.length === 0) break;
          // Lines may be those of a script.
          const words = split.words[0] === "udm" ? split.words.slice(1) : split.words;
          return { number, text: text.trim(), words };
        }
        const more = await this.#nextLine();
        if (more === undefined) throw new LineError(number, split.why, "it is the last line");
        text += `\n${more}`;
        if (text.length > MAX_LINE_LENGTH) throw tooLong(number);
      }
    }
  }

  #split(text: string, number: number): ReturnType<typeof splitWords> {
    try {
      return splitWords(text);
    } catch (error) {
      if (error instanceof UsageError) throw new LineError(number, error.message, error.hint);
      throw error;
    }
  }

  async #nextLine(): Promise<string | undefined> {
    while (this.#lines.length === 0) {
      if (this.#hasEnded) return undefined;
      const { value, done } = await this.#chunks.next();
      this.#hasEnded = done === true;
      const text = typeof value === "string" ? value : this.#decoder.decode(value, { stream: !this.#hasEnded });
      const lines = `${this.#rest}${text}`.split("\n");
      this.#rest = lines.pop() ?? "";
      if (this.#rest.length > MAX_LINE_LENGTH) throw tooLong(this.#number + lines.length + 1);
      this.#lines.push(...lines);
      if (this.#hasEnded && this.#rest !== "") this.#lines.push(this.#rest);
    }
    this.#number++;
    return this.#lines.shift();
  }
}

function tooLong(number: number): LineError {
  return new LineError(number, `longer than ${MAX_LINE_LENGTH} characters`, "is this a file of commands?");
}
