/**
 * Lines typed at the prompt, kept in the state folder for the next time, continued ones as one. Lines that begin with a
 * blank are not kept, nor are those with a line break in quotes and those that look as if they held a secret. Where the file cannot be written, there is no history.
 */
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

const MAX_LINES = 1000;
const SECRET = /:\/\/[^/\s@]+@|passw|secret|token|credential/i;

export class History {
  readonly #path: string;
  readonly #lines: string[];

  private constructor(path: string, lines: readonly string[]) {
    this.#path = path;
    this.#lines = [...lines];
  }

  static open(path: string): History {
    let lines: string[] = [];
    try {
      lines = readFileSync(path, "utf8")
        .split("\n")
        .filter((line) => line !== "");
      if (lines.length > 2 * MAX_LINES) {
        lines = lines.slice(-MAX_LINES);
        writeFileSync(path, `${lines.join("\n")}\n`, { mode: 0o600 });
      }
    } catch {
      // No file yet, or not ours to read.
    }
    return new History(path, lines.slice(-MAX_LINES));
  }

  /** Newest first, as readline wants it. */
  get newestFirst(): string[] {
    return [...this.#lines].reverse();
  }

  add(text: string): void {
    const line = text.replaceAll("\\\n", "").trimEnd();
    if (
      line.includes("\n") ||
      line.trim() === "" ||
      /^\s/.test(line) ||
      SECRET.test(line) ||
      line === this.#lines.at(-1)
    )
      return;
    this.#lines.push(line);
    try {
      mkdirSync(dirname(this.#path), { recursive: true, mode: 0o700 });
      appendFileSync(this.#path, `${line}\n`, { mode: 0o600 });
    } catch {
      // The line is known until the shell ends.
    }
  }
}
