/** Running outside programs: arguments as an array, no shell, a time limit, their output in the error. */
import { readFileSync } from "node:fs";
import { ToolError } from "../errors/index.js";

export interface RunOptions {
  /** Default 60 seconds. */
  readonly timeoutMs?: number;
  readonly input?: string | Uint8Array;
  /** Exit statuses that are not failures; default only 0. */
  readonly okStatuses?: readonly number[];
  readonly cwd?: string;
  /** Added to the environment; the language is always C, so that output parses. */
  readonly env?: Readonly<Record<string, string>>;
  /** Descriptors handed down as 3, 4, ... */
  readonly passFds?: readonly number[];
}

export interface RunResult {
  readonly status: number;
  /** Without the last line end. */
  readonly stdout: string;
  readonly stderr: string;
}

const DEFAULT_TIMEOUT_MS = 60_000;
/** For a program whose time is up to end, by SIGTERM or by SIGKILL. One that waits for a device does not: it is left behind. */
const KILL_MS = 5000;
const LEAVE_MS = KILL_MS + 1000;
/** More output than this is a program gone wrong. */
const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;

/** Runs a program and waits for it. @throws ToolError ENOENT not installed, ETIMEDOUT, EIO a bad exit status */
export async function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { execa } = await import("execa");
  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const child = execa(program, [...args], {
    reject: false,
    timeout: timeoutMs,
    forceKillAfterDelay: KILL_MS,
    maxBuffer: MAX_OUTPUT_BYTES,
    stripFinalNewline: true,
    env: { LC_ALL: "C", ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.input === undefined ? {} : { input: options.input }),
    ...stdioOf(options),
  });
  let timer: NodeJS.Timeout | undefined;
  const left = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), timeoutMs + LEAVE_MS);
  });
  const result = await Promise.race([child, left]).finally(() => clearTimeout(timer));
  if (result === undefined) {
    child.unref();
    return conclude(program, args, options, TIMED_OUT);
  }
  return conclude(program, args, options, {
    status: result.exitCode,
    signal: result.signal,
    errno: result.failed && result.exitCode === undefined ? (result as { code?: string }).code : undefined,
    timedOut: result.timedOut,
    stdout: textOf(result.stdout),
    stderr: textOf(result.stderr),
  });
}

/** Any descriptor will do; the types of execa know the first few. */
function stdioOf({ input, passFds = [] }: RunOptions) {
  const stdin = input === undefined ? ("ignore" as const) : ("pipe" as const);
  return { stdio: [stdin, "pipe", "pipe", ...passFds] as [typeof stdin, "pipe", "pipe", ...3[]] };
}

export interface ShellOptions {
  /** Added to the environment. */
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: NodeJS.ReadableStream;
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream;
  /** Ends it and what it has started, by SIGTERM. */
  readonly signal: AbortSignal;
}

/**
 * What a person wrote for the shell: it reads and writes what this program would, for as long as it likes.
 * @returns its exit status; 128 and the number of the signal that ended it
 */
export async function runShell(script: string, options: ShellOptions): Promise<number> {
  const { spawn } = process.getBuiltinModule("node:child_process");
  const { constants } = process.getBuiltinModule("node:os");
  const { stdin, stdout, stderr } = options;
  const child = spawn("/bin/sh", ["-c", script], {
    env: { ...process.env, ...options.env },
    stdio: [descriptorOf(stdin) ?? "ignore", descriptorOf(stdout) ?? "pipe", descriptorOf(stderr) ?? "pipe"],
  });
  child.stdout?.pipe(stdout, { end: false });
  child.stderr?.pipe(stderr, { end: false });
  const end = () => {
    const started = child.pid === undefined ? [] : descendantsOf(child.pid);
    // The shell first, so that it does not go on to its next command.
    child.kill("SIGTERM");
    for (const pid of started) endProcess(pid);
  };
  options.signal.addEventListener("abort", end, { once: true });
  try {
    return await new Promise<number>((resolve, reject) => {
      child.once("error", (error) => reject(new ToolError("ENOENT", `/bin/sh: ${error.message}`)));
      child.once("close", (status, signal) =>
        resolve(status ?? 128 + (signal === null ? 0 : constants.signals[signal])),
      );
    });
  } finally {
    options.signal.removeEventListener("abort", end);
  }
}

/** What a process has started, and so on; empty where the kernel does not tell. */
function descendantsOf(pid: number): number[] {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
    return children.flatMap((child) => [child, ...descendantsOf(child)]);
  } catch {
    return [];
  }
}

function endProcess(pid: number): void {
  try {
    process.kill(pid, "SIGTERM");
  } catch {
    // It has ended by itself.
  }
}

function descriptorOf(stream: object): number | undefined {
  return "fd" in stream && typeof stream.fd === "number" ? stream.fd : undefined;
}

/** As run, without giving way to anything else: for the synchronous side of a device where system calls are missing. */
export function runSync(program: string, args: readonly string[], options: RunOptions = {}): RunResult {
  // Loaded here: most commands run no program, and this module takes a millisecond to load.
  const { spawnSync } = process.getBuiltinModule("node:child_process");
  const result = spawnSync(program, args, {
    timeout: options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
    maxBuffer: MAX_OUTPUT_BYTES,
    encoding: "utf8",
    env: { ...process.env, LC_ALL: "C", ...options.env },
    stdio: ["pipe", "pipe", "pipe", ...(options.passFds ?? [])],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.input === undefined ? {} : { input: options.input }),
  });
  const errno = (result.error as NodeJS.ErrnoException | undefined)?.code;
  return conclude(program, args, options, {
    status: result.status ?? undefined,
    signal: result.signal ?? undefined,
    errno,
    timedOut: errno === "ETIMEDOUT",
    stdout: (result.stdout ?? "").replace(/\n$/, ""),
    stderr: (result.stderr ?? "").replace(/\n$/, ""),
  });
}

interface Outcome {
  readonly status: number | undefined;
  readonly signal: string | undefined;
  readonly errno: string | undefined;
  readonly timedOut: boolean;
  readonly stdout: string;
  readonly stderr: string;
}

const TIMED_OUT: Outcome = {
  status: undefined,
  signal: undefined,
  errno: undefined,
  timedOut: true,
  stdout: "",
  stderr: "",
};

function conclude(program: string, args: readonly string[], options: RunOptions, outcome: Outcome): RunResult {
  // EACCES is what a PATH with a folder of somebody else's gives for a program that is nowhere.
  if (outcome.errno === "ENOENT" || outcome.errno === "EACCES") {
    throw new ToolError("ENOENT", `${program}: not found, or not to be run by this user`, {
      hint: `install ${program}, or set PATH so that it is found`,
    });
  }
  if (outcome.timedOut) {
    const seconds = (options.timeoutMs ?? DEFAULT_TIMEOUT_MS) / 1000;
    throw new ToolError("ETIMEDOUT", `${commandLine(program, args)}: no end after ${seconds} s${saidOf(outcome)}`);
  }
  if (outcome.status === undefined) {
    const why = outcome.signal !== undefined ? `killed by ${outcome.signal}` : (outcome.errno ?? "could not be run");
    throw new ToolError("EIO", `${commandLine(program, args)}: ${why}${saidOf(outcome)}`);
  }
  if (!(options.okStatuses ?? [0]).includes(outcome.status)) {
    throw new ToolError("EIO", `${commandLine(program, args)}: exit status ${outcome.status}${saidOf(outcome)}`);
  }
  return { status: outcome.status, stdout: outcome.stdout, stderr: outcome.stderr };
}

function commandLine(program: string, args: readonly string[]): string {
  return [program, ...args].map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word}'`)).join(" ");
}

/** What the program said, on one line: its errors, else its output, at most 500 characters. */
function saidOf({ stderr, stdout }: Outcome): string {
  const said = (stderr.trim() || stdout.trim()).replaceAll(/\s*\n\s*/g, "; ");
  return said === "" ? "" : `: ${said.slice(0, 500)}`;
}

function textOf(output: unknown): string {
  return typeof output === "string" ? output : "";
}
