/** A real terminal: a program in tmux, keys typed into it, and what stands on its screen. */
import { execFileSync } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";

const POLL_MS = 50;
const PATIENCE_MS = 60_000;

export interface TerminalOptions {
  readonly folder: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly columns?: number;
  readonly rows?: number;
}

export class Terminal {
  readonly #socket: string;
  readonly #environment: Readonly<Record<string, string>>;

  private constructor(socket: string, environment: Readonly<Record<string, string>>) {
    this.#socket = socket;
    this.#environment = environment;
  }

  static open(command: string, options: TerminalOptions): Terminal {
    const terminal = new Terminal(`${options.folder}/tmux`, options.environment);
    const size = ["-x", String(options.columns ?? 100), "-y", String(options.rows ?? 50)];
    terminal.#tmux(["-f", "/dev/null", "new-session", "-d", "-c", options.folder, ...size, command]);
    return terminal;
  }

  /** Keys by tmux's names: `Tab`, `Enter`, `C-c`. */
  press(...keys: readonly string[]): void {
    this.#tmux(["send-keys", ...keys]);
  }

  type(text: string): void {
    this.#tmux(["send-keys", "-l", "--", text]);
  }

  enter(line: string): void {
    this.type(line);
    this.press("Enter");
  }

  resize(size: { readonly columns: number; readonly rows: number }): void {
    this.#tmux(["resize-window", "-x", String(size.columns), "-y", String(size.rows)]);
  }

  /** The screen without the blank lines at its end. */
  screen(options: { readonly colours?: boolean } = {}): string {
    return this.#tmux(["capture-pane", "-p", ...(options.colours === true ? ["-e"] : [])]).trimEnd();
  }

  /** @returns the screen that satisfies; throws with the last one when none does */
  async until(found: (screen: string) => boolean, options: { readonly colours?: boolean } = {}): Promise<string> {
    const end = performance.now() + PATIENCE_MS;
    for (;;) {
      const screen = this.screen(options);
      if (found(screen)) return screen;
      if (performance.now() > end) throw new Error(`the screen never got there:\n${screen}`);
      await sleep(POLL_MS);
    }
  }

  /** The last line is this one. */
  untilLast(line: string): Promise<string> {
    return this.until((screen) => screen.split("\n").at(-1)?.trimEnd() === line);
  }

  /** Everything that is written to the terminal from now on goes into a file too. */
  record(file: string): void {
    this.#tmux(["pipe-pane", "-o", `cat > '${file}'`]);
  }

  close(): void {
    try {
      this.#tmux(["kill-server"]);
    } catch {
      // It ended with its program.
    }
  }

  #tmux(argv: readonly string[]): string {
    return execFileSync("tmux", ["-S", this.#socket, ...argv], {
      encoding: "utf8",
      env: { ...this.#environment, TERM: "xterm-256color" },
      stdio: ["ignore", "pipe", "pipe"],
    });
  }
}
