/** Scripts that a person wrote, and their end. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { runShell } from "../../src/io/index.js";
import { withTemporaryFolder } from "../support/temporary-folder.js";

function streams() {
  return { stdin: new PassThrough(), stdout: new PassThrough(), stderr: new PassThrough() };
}

test("a script's status is passed on, and what it is given is in its environment", async () => {
  const { signal } = new AbortController();
  expect(await runShell('exit "$status"', { env: { status: "7" }, ...streams(), signal })).toBe(7);
});

test("a script that is ended leaves nothing behind, and does not go on to its next command", async () => {
  await withTemporaryFolder("udm-run-", async (folder) => {
    const [note, after] = [join(folder, "note"), join(folder, "after")];
    const script = `sh -c 'echo $$ > "${note}.new"; mv "${note}.new" "${note}"; exec sleep 100'; echo > "${after}"`;
    const ending = new AbortController();
    const status = runShell(script, { env: {}, ...streams(), signal: ending.signal });
    while (!existsSync(note)) await sleep(5);
    const pid = Number(readFileSync(note, "utf8"));
    expect(isRunning(pid)).toBe(true);
    ending.abort();
    expect(await status).toBe(128 + 15);
    while (isRunning(pid)) await sleep(5);
    expect(existsSync(after)).toBe(false);
  });
});

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
