/** What a command works with: its streams, the host behind it, the options of the whole program. */
import { isAbsolute, join, resolve } from "node:path";
import { invariant, messageOf, StateError, UdmError } from "../errors/index.js";
import type { Host } from "../host/index.js";
import { askYesNo, isUtf8Locale, type Palette, type ProgressBar, paletteFor, progressBar } from "../ui/index.js";
import { DOCUMENT_VERSION } from "./document-version.js";
import { DEFAULT_GLOBALS, type Globals } from "./globals.js";

export type Environment = Readonly<Record<string, string | undefined>>;

export interface Streams {
  readonly stdin: NodeJS.ReadableStream & { readonly isTTY?: boolean };
  readonly stdout: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number };
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number };
}

/** A failure as it is told: one line, and what to do about it. */
export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly hint: string | undefined;
}

/** Runs a command line inside another: the words without the program's name. @returns its exit status */
export type RunLine = (
  words: readonly string[],
  options: {
    readonly streams: Streams;
    readonly openHost: OpenHost;
    /** Told instead of printed. */
    readonly onFailure: (failure: Failure) => void;
  },
) => Promise<number>;

export interface ContextOptions {
  readonly streams: Streams;
  readonly environment: Environment;
  readonly isRoot: boolean;
  /** Of the program; told to a daemon. */
  readonly version?: string;
  /** The home of the host; in this process unless another is given. */
  readonly openHost?: OpenHost;
  readonly runLine?: RunLine;
  /** Ends the command. */
  readonly interrupt?: AbortSignal;
  /** Words that run this program: what starts the daemon. */
  readonly program?: readonly string[];
}

export type OpenHost = (options: {
  readonly stateDir: string;
  readonly runDir: string;
  readonly lockTimeoutMs: number;
  readonly log: (line: string) => void;
  readonly wantsLog: boolean;
  readonly version: string;
  readonly cwd: string;
}) => Promise<Host>;

/** Opened for one command line; `close` lets go of what the host holds. */
export class Context {
  readonly streams: Streams;
  readonly environment: Environment;
  readonly #runLine: RunLine | undefined;
  readonly isRoot: boolean;
  /** For what runs until it is told to end. */
  readonly interrupt: AbortSignal | undefined;
  readonly #openInProcess: OpenHost | undefined;
  readonly #program: readonly string[] | undefined;
  readonly #version: string;
  #takesInterrupt = false;
  #unwinds = false;
  #globals: Globals = DEFAULT_GLOBALS;
  #host: Promise<Host> | undefined;
  #ownHost: Promise<Host> | undefined;
  #exitStatus = 0;
  #brokenPipe: Promise<never> | undefined;

  constructor(options: ContextOptions) {
    this.streams = options.streams;
    this.environment = options.environment;
    this.isRoot = options.isRoot;
    this.interrupt = options.interrupt;
    this.#openInProcess = options.openHost;
    this.#program = options.program;
    this.#version = options.version ?? "";
    this.#runLine = options.runLine;
  }

  /**
   * Signals are the command's own affair from now on: it ends in its own time and gives its own status. Without this an
   * interrupted command is given a moment to let go, and ends with status 130. Asked a second time, it ends at once.
   */
  takeInterrupt(): AbortSignal {
    this.#takesInterrupt = true;
    return this.interrupt ?? new AbortController().signal;
  }

  get takesInterrupt(): boolean {
    return this.#takesInterrupt;
  }

  /** Interrupted, this command soon ends by itself and takes away what it had begun: the program waits for that. */
  unwinds(): void {
    this.#unwinds = true;
  }

  get isUnwinding(): boolean {
    return this.#unwinds;
  }

  get globals(): Globals {
    return this.#globals;
  }

  useGlobals(globals: Globals): void {
    this.#globals = globals;
  }

  /** Status of a command that ran; a report may give another than 0. */
  get exitStatus(): number {
    return this.#exitStatus;
  }

  exitWith(status: number): void {
    this.#exitStatus = status;
  }

  get isUtf8(): boolean {
    return isUtf8Locale(this.environment);
  }

  /** The host, opened when first asked for. */
  host(): Promise<Host> {
    this.#host ??= this.#openHost();
    return this.#host;
  }

  async #openHost(): Promise<Host> {
    const openHost = this.#openInProcess ?? (await import("../host/index.js")).openAnyHost;
    return openHost(this.hostOptions);
  }

  /** A host of its own, to be closed by who asked: the daemon's where one runs. */
  async freshHost(): Promise<Host> {
    if (this.#openInProcess !== undefined) return this.host();
    return (await import("../host/index.js")).openAnyHost(this.hostOptions);
  }

  /** A host in this process whatever runs, for what lies in files. */
  ownHost(): Promise<Host> {
    this.#ownHost ??= this.#openOwnHost();
    return this.#ownHost;
  }

  async #openOwnHost(): Promise<Host> {
    const openHost = this.#openInProcess ?? (await import("../host/index.js")).openHost;
    return openHost(this.hostOptions);
  }

  /** For whoever opens a host, or a daemon. */
  get hostOptions(): Parameters<OpenHost>[0] {
    return {
      ...this.directories,
      lockTimeoutMs: this.#globals.lockTimeoutMs,
      log: (line: string) => {
        if (this.#globals.verbose) this.streams.stderr.write(`udm: ${line}\n`);
      },
      wantsLog: this.#globals.verbose,
      version: this.#version,
      cwd: process.cwd(),
    };
  }

  /** The host of the daemon, which is started where none runs, and ends when nothing is served any more. */
  async daemonHost(): Promise<Host> {
    const { daemonHost } = await import("../host/index.js");
    const opened = daemonHost({ ...this.hostOptions, program: this.daemonProgram({ endsWhenIdle: true }) });
    const before = this.#host;
    this.#host = opened.then(({ host }) => host);
    await (await before)?.close();
    return this.#host;
  }

  /** Words that run the daemon of this state dir in the foreground, and tell on descriptor 3 how it went. */
  daemonProgram(options: { readonly endsWhenIdle: boolean }): readonly string[] {
    invariant(this.#program !== undefined, "nobody said how to run this program");
    const { stateDir, runDir } = this.directories;
    const folders = ["--state-dir", stateDir, "--run-dir", runDir];
    const seconds = ["--lock-timeout", String(this.#globals.lockTimeoutMs / 1000)];
    const idle = options.endsWhenIdle ? ["--ends-when-idle"] : [];
    return [...this.#program, "daemon", "start", "--foreground", "--ready-fd", "3", ...folders, ...seconds, ...idle];
  }

  /** Runs a command line with the host of this one. */
  async runLine(
    words: readonly string[],
    options: { readonly streams: Streams; readonly onFailure: (failure: Failure) => void },
  ): Promise<number> {
    invariant(this.#runLine !== undefined, "nobody runs lines");
    const host = await this.host();
    // The line lets go of its host, which stays open for the next one.
    const borrowed: Host = Object.assign(Object.create(host), { close: async () => undefined });
    return this.#runLine(words, { ...options, openHost: async () => borrowed });
  }

  get directories(): { readonly stateDir: string; readonly runDir: string } {
    return stateDirectories(this.environment, this.isRoot, this.#globals.stateDir);
  }

  /** Where attached devices get their names. */
  get devFolder(): string {
    return resolve(this.environment.UDM_DEV_DIR || "/dev/mapper");
  }

  /** May be called twice. */
  async close(): Promise<void> {
    const host = this.#host;
    this.#host = undefined;
    if (host === undefined) return;
    const opened = await host.catch(() => undefined);
    await opened?.close();
  }

  line(text = ""): void {
    this.streams.stdout.write(`${text}\n`);
  }

  lines(texts: readonly string[]): void {
    if (texts.length > 0) this.streams.stdout.write(`${texts.join("\n")}\n`);
  }

  /** The one document of a command with --json. */
  json(document: unknown): void {
    this.line(JSON.stringify({ version: DOCUMENT_VERSION, ...(document as object) }, undefined, 2));
  }

  /** Something worth knowing that is not the result. */
  note(text: string): void {
    if (!this.#globals.quiet) this.streams.stderr.write(`udm: ${text}\n`);
  }

  /** Ends a report that is not whole: each failure but the last gets a line here, that one is thrown. */
  failAfter(failures: readonly unknown[]): void {
    for (const failure of failures.slice(0, -1)) this.streams.stderr.write(`udm: ${messageOf(failure)}\n`);
    if (failures.length > 0) throw failures.at(-1);
  }

  palette(stream: "stdout" | "stderr"): Promise<Palette> {
    return paletteFor(this.streams[stream], this.environment);
  }

  progress(label: string): ProgressBar {
    const { stderr } = this.streams;
    const isShown = stderr.isTTY === true && !this.#globals.quiet;
    const columns = stderr.columns === undefined ? {} : { columns: stderr.columns };
    const screen = { isTTY: isShown, ...columns, write: (text: string) => stderr.write(text) };
    return progressBar(screen, { label, now: () => performance.now(), isUtf8: this.isUtf8 });
  }

  /**
   * Lets a destroying command pass: with --yes, or when a person at the terminal says so.
   * @throws StateError EPERM otherwise, naming the flag
   */
  async confirm(deed: string): Promise<void> {
    if (this.#globals.yes) return;
    const { stdin, stderr } = this.streams;
    if (stdin.isTTY === true && stderr.isTTY === true) {
      if (await askYesNo({ input: stdin, output: stderr }, `udm: ${deed}?`)) return;
      throw new StateError("EPERM", `${deed}: not confirmed`, { hint: "nothing was changed" });
    }
    throw new StateError("EPERM", `${deed}: refused without confirmation`, {
      hint: "this destroys data; add --yes to do it without being asked",
    });
  }

  /** Waits for work that writes to standard output, and gives up when nobody reads any more. */
  async whileRead<T>(work: Promise<T>): Promise<T> {
    this.#brokenPipe ??= new Promise<never>((_, reject) => {
      this.streams.stdout.once("error", (error: Error & { code?: string }) => {
        if (error.code === "EPIPE") return reject(new UdmError("EPIPE", `standard output: ${error.message}`));
        void import("../io/index.js").then(({ systemError }) => reject(systemError(error, "standard output")));
      });
    });
    work.catch(() => undefined);
    return Promise.race([work, this.#brokenPipe]);
  }
}

/** Where state and run files lie. Source: the command line's specification, section 1, environment. */
export function stateDirectories(
  environment: Environment,
  isRoot: boolean,
  option: string | undefined,
): { readonly stateDir: string; readonly runDir: string } {
  const set = (name: string) => environment[name] || undefined;
  const home = set("HOME") ?? "/";
  const base = (name: string) => {
    const value = set(name);
    return value !== undefined && isAbsolute(value) ? value : undefined;
  };
  const stateDir =
    option ??
    set("UDM_STATE_DIR") ??
    (isRoot ? "/var/lib/udm" : join(base("XDG_STATE_HOME") ?? join(home, ".local/state"), "udm"));
  const runBase = base("XDG_RUNTIME_DIR");
  const runDir =
    set("UDM_RUN_DIR") ?? (isRoot ? "/run/udm" : runBase === undefined ? join(stateDir, "run") : join(runBase, "udm"));
  return { stateDir: resolve(stateDir), runDir: resolve(runDir) };
}
