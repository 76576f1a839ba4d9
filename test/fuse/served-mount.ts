/** A FUSE mount served by another process, for tests that need a kernel; whatever happens, nothing of it stays. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { abortConnection, listFuseMounts, unmountFuse } from "../../src/fuse/index.js";
import { withTemporaryFolder } from "../support/temporary-folder.js";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** Why there is no FUSE here; undefined when there is. */
export function whyNoFuse(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root";
  return existsSync("/dev/fuse") ? undefined : "this kernel has no FUSE";
}

export interface ServedMount {
  readonly folder: string;
  readonly child: ChildProcess;
  readonly connection: number;
  /** Sends a line to the server's script and waits for its answer. */
  tell(word: string): Promise<string>;
}

/**
 * Serves files from a process of its own. `source` is the body of an async function that has `fuse` (the module src/fuse),
 * `io` and `mount`; it returns a function that answers the words of `tell`.
 */
export async function withServedMount(source: string, body: (mount: ServedMount) => Promise<void>): Promise<void> {
  await withTemporaryFolder("udm-fuse-", async (base) => {
    const folder = join(base, "images");
    const script = `
      import * as io from ${JSON.stringify(`${ROOT}src/io/index.ts`)};
      import * as fuse from ${JSON.stringify(`${ROOT}src/fuse/index.ts`)};
      import { createInterface } from "node:readline";
      const mount = await fuse.FuseMount.open({
        folder: ${JSON.stringify(folder)}, source: "udm", log: (line) => console.error(line),
        onEnd: () => process.exit(3),
      });
      const answer = await (async () => { ${source} })();
      createInterface({ input: process.stdin }).on("line", async (word) => {
        console.log(word === "close" ? String(await mount.close()) : String(await answer(word)));
        if (word === "close") process.exit(0);
      });
      console.log("ready");
    `;
    const child = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script], {
      cwd: ROOT,
      stdio: ["pipe", "pipe", "inherit"],
    });
    const next = lines(child);
    try {
      const ready = await next();
      if (ready !== "ready") throw new Error(`the server said ${ready}`);
      const connection = listFuseMounts().find((each) => each.folder === folder)!.connection;
      const tell = async (word: string) => {
        child.stdin!.write(`${word}\n`);
        return next();
      };
      await body({ folder, child, connection, tell });
    } finally {
      const left = listFuseMounts().find((each) => each.folder === folder);
      if (left !== undefined) await abortConnection(left.connection);
      child.kill("SIGKILL");
      await unmountFuse(folder);
    }
  });
}

function lines(child: ChildProcess): () => Promise<string> {
  let text = "";
  const waiting: ((line: string) => void)[] = [];
  const flush = () => {
    for (let end = text.indexOf("\n"); end >= 0 && waiting.length > 0; end = text.indexOf("\n")) {
      waiting.shift()!(text.slice(0, end));
      text = text.slice(end + 1);
    }
  };
  child.stdout!.setEncoding("utf8").on("data", (part: string) => {
    text += part;
    flush();
  });
  child.once("exit", (status) => {
    for (const tell of waiting.splice(0)) tell(`the end: ${status}`);
  });
  return () =>
    new Promise((resolve) => {
      waiting.push(resolve);
      flush();
    });
}
