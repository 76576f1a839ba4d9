import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { run } from "../../src/io/index.js";
import { withTemporaryFolder } from "../support/temporary-folder.js";

test("a program that does not end in its time is left behind, as one that waits for a device and cannot be killed", () =>
  withTemporaryFolder("udm-run-", async (folder) => {
    const pidFile = join(folder, "pid");
    // What it started lives on and keeps its output open, which is all that is waited for.
    const script = 'sleep 100000 & echo $! > "$0"; wait';
    try {
      await expect(run("sh", ["-c", script, pidFile], { timeoutMs: 100 })).rejects.toMatchObject({
        code: "ETIMEDOUT",
        message: expect.stringContaining("no end after 0.1 s"),
      });
    } finally {
      process.kill(Number(readFileSync(pidFile, "utf8")), "SIGKILL");
    }
  }));
