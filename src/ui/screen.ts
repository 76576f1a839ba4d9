/**
 * The whole terminal as one picture, and keys one by one. What stood there before comes back when it is closed. Colour and
 * marks are escape sequences only where the palette has any.
 */

export interface ScreenInput extends NodeJS.ReadableStream {
  readonly isTTY?: boolean;
  setRawMode?(isRaw: boolean): unknown;
}

export interface ScreenOutput extends NodeJS.WritableStream {
  readonly columns?: number;
  readonly rows?: number;
}

export interface ScreenLine {
  readonly text: string;
  /** Painted after it was cut to the width. */
  readonly paint?: ((text: string) => string) | undefined;
}

const DEFAULT_COLUMNS = 80;
const DEFAULT_ROWS = 24;
/** What arrows and their neighbours send, by the terminal's mode. */
const SEQUENCES: ReadonlyMap<string, string> = new Map([
  ...["[A", "OA"].map((each) => [each, "up"] as const),
  ...["[B", "OB"].map((each) => [each, "down"] as const),
  ...["[C", "OC"].map((each) => [each, "right"] as const),
  ...["[D", "OD"].map((each) => [each, "left"] as const),
  ...["[H", "OH", "[1~", "[7~"].map((each) => [each, "home"] as const),
  ...["[F", "OF", "[4~", "[8~"].map((each) => [each, "end"] as const),
  ["[5~", "pageup"],
  ["[6~", "pagedown"],
]);
const NAMES: Readonly<Record<string, string>> = {
  "\r": "enter",
  "\n": "enter",
  "\u007f": "backspace",
  "\b": "backspace",
  "\u0003": "interrupt",
  "\u0004": "end of input",
  "\u001b": "escape",
};
const ESCAPE = "\u001b";
/** What a terminal sends after ESC for one key. */
const SEQUENCE = /^(\[[0-9;]*[A-Za-z~]|O[A-Za-z])/;

export class Screen {
  readonly #input: ScreenInput;
  readonly #output: ScreenOutput;
  readonly #keys: string[] = [];
  readonly #onData = (data: string | Uint8Array) => this.#take(splitKeys(String(data)));
  readonly #onResize = () => this.#take(["resize"]);
  readonly #onEnd = () => this.#take(["end of input"]);
  #wake: (() => void) | undefined;
  #isOpen = true;

  constructor(input: ScreenInput, output: ScreenOutput) {
    this.#input = input;
    this.#output = output;
    // The other screen, no cursor.
    output.write(`${ESCAPE}[?1049h${ESCAPE}[?25l`);
    input.setRawMode?.(true);
    input.on("data", this.#onData);
    input.on("end", this.#onEnd);
    output.on("resize", this.#onResize);
    input.resume();
  }

  get columns(): number {
    return this.#output.columns || DEFAULT_COLUMNS;
  }

  get rows(): number {
    return this.#output.rows || DEFAULT_ROWS;
  }

  /** Draws lines from the top; those that are too many or too long are cut. */
  draw(lines: readonly ScreenLine[]): void {
    const shown = lines.slice(0, this.rows).map(({ text, paint }) => {
      const cut = cutTo(text, this.columns);
      return `${paint === undefined ? cut : paint(cut)}${ESCAPE}[K`;
    });
    this.#output.write(`${ESCAPE}[H${shown.join("\r\n")}${ESCAPE}[J`);
  }

  /** The next key: a name, or the character; `resize` when the terminal has another size. */
  async key(): Promise<string> {
    while (this.#keys.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#keys.shift()!;
  }

  /** Ends a wait for a key from outside. */
  press(key: string): void {
    this.#take([key]);
  }

  /** May be called twice. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#input.off("data", this.#onData);
    this.#input.off("end", this.#onEnd);
    this.#output.off("resize", this.#onResize);
    this.#input.setRawMode?.(false);
    this.#input.pause();
    this.#output.write(`${ESCAPE}[?25h${ESCAPE}[?1049l`);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #take(keys: readonly string[]): void {
    this.#keys.push(...keys);
    this.#wake?.();
    this.#wake = undefined;
  }
}

/** What was typed as names of keys, and characters. Sequences of keys that are not known are nothing. */
export function splitKeys(data: string): readonly string[] {
  const keys: string[] = [];
  for (let at = 0; at < data.length; ) {
    const sequence = data[at] === ESCAPE ? SEQUENCE.exec(data.slice(at + 1))?.[0] : undefined;
    if (sequence !== undefined) {
      const name = SEQUENCES.get(sequence);
      if (name !== undefined) keys.push(name);
      at += 1 + sequence.length;
      continue;
    }
    const character = String.fromCodePoint(data.codePointAt(at)!);
    keys.push(NAMES[character] ?? character);
    at += character.length;
  }
  return keys;
}

/** All of what is shown is of one column a character. */
function cutTo(text: string, columns: number): string {
  if (text.length <= columns) return text;
  return columns < 4 ? text.slice(0, columns) : `${text.slice(0, columns - 3)}...`;
}
