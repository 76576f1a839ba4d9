/** A second process that does something with src/io and then waits, so that tests can meet a holder who is not themselves. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

export interface Child {
  readonly pid: number;
  /** Ends it at once, as a crash would. */
  kill(): Promise<void>;
}

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/**
 * Runs `source`, the body of an async function that has `io` (the module src/io) and `args`, and resolves once it is done;
 * the process lives on until killed.
 */
export async function holdInChild(source: string, args: readonly string[]): Promise<Child> {
  const script = `
    import * as io from ${JSON.stringify(`${ROOT}src/io/index.ts`)};
    const args = ${JSON.stringify(args)};
    const kept = await (async () => { ${source} })();
    process.stdout.write("ready\\n");
    setInterval(() => kept, 60000);
  `;
  const child = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script], {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "inherit"],
  });
  await ready(child);
  return {
    pid: child.pid!,
    kill: async () => {
      const exited = once(child, "exit");
      child.kill("SIGKILL");
      await exited;
    },
  };
}

function ready(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.stdout!.once("data", () => resolve());
    child.once("exit", (status) => reject(new Error(`the child ended with ${status}`)));
    child.once("error", reject);
  });
}
