/** The real binary in a folder of its own: state, files and working directory are gone when the test is over. */
import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { withTemporaryFolder } from "../support/temporary-folder.js";

export const UDM = fileURLToPath(new URL("../../bin/udm.js", import.meta.url));

/** All sessions of this run go through a daemon: the project `daemon` of vitest.config.ts. */
export const THROUGH_DAEMON = process.env.UDM_TEST_DAEMON === "1";

export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly input?: string | Uint8Array;
  readonly environment?: Readonly<Record<string, string>>;
}

export class Session {
  constructor(readonly folder: string) {}

  get environment(): Record<string, string> {
    return {
      PATH: `${this.path("bin")}:${process.env.PATH ?? ""}:/usr/sbin:/sbin`,
      HOME: this.folder,
      LC_ALL: "C",
      TZ: "UTC",
      UDM_STATE_DIR: this.path("state"),
      UDM_RUN_DIR: this.path("run"),
    };
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** `udm` with these words; a line is split at blanks. */
  udm(words: string | readonly string[], options: RunOptions = {}): Promise<Ran> {
    const argv = typeof words === "string" ? words.split(" ") : words;
    return this.run(process.execPath, [UDM, ...argv], options);
  }

  /** The same, and it must succeed without a word on standard error. @returns standard output */
  async ok(words: string | readonly string[], options: RunOptions = {}): Promise<string> {
    const ran = await this.udm(words, options);
    if (ran.status !== 0 || ran.stderr !== "") {
      throw new Error(`udm ${words}: status ${ran.status}\n${ran.stderr}${ran.stdout}`);
    }
    return ran.stdout;
  }

  /** A line for bash, with `udm` in its PATH. */
  bash(script: string, options: RunOptions = {}): Promise<Ran> {
    return this.run("bash", ["-c", script], options);
  }

  run(program: string, argv: readonly string[], options: RunOptions = {}): Promise<Ran> {
    const child = this.start(program, argv, options);
    child.stdin!.on("error", () => undefined);
    child.stdin!.end(options.input ?? "");
    return finished(child);
  }

  start(program: string, argv: readonly string[], options: RunOptions = {}): ChildProcess {
    return spawn(program, [...argv], {
      cwd: this.folder,
      env: { ...this.environment, ...options.environment },
      stdio: ["pipe", "pipe", "pipe"],
    });
  }
}

export function finished(child: ChildProcess): Promise<Ran> {
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout!.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr!.on("data", (chunk: Buffer) => stderr.push(chunk));
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status) => {
      resolve({ status, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() });
    });
  });
}

export function withSession<T>(body: (session: Session) => Promise<T>): Promise<T> {
  return withTemporaryFolder("udm-cli-", async (folder) => {
    mkdirSync(join(folder, "bin"));
    symlinkSync(UDM, join(folder, "bin/udm"));
    chmodSync(UDM, 0o755);
    const session = new Session(folder);
    return THROUGH_DAEMON ? withDaemon(session, body) : body(session);
  });
}

/** The same with a daemon that has the state all the while; it must not have had anything to complain about. */
async function withDaemon<T>(session: Session, body: (session: Session) => Promise<T>): Promise<T> {
  await session.ok("daemon start");
  let result: T;
  try {
    result = await body(session);
  } catch (error) {
    await session.udm("daemon stop");
    throw error;
  }
  const ran = await session.udm("daemon stop");
  if (ran.status !== 0) throw new Error(`udm daemon stop: ${ran.stderr}`);
  for (const name of readdirSync(session.path("run")).filter((each) => each.endsWith(".log"))) {
    const log = readFileSync(join(session.path("run"), name), "utf8");
    if (/internal error|^ {4}at /m.test(log)) throw new Error(log);
  }
  return result;
}
