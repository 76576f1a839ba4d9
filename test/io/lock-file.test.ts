import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { lockFile, nativeCalls, replaceFile, replaceFileInPool, tryLockFile } from "../../src/io/index.js";
import { codeThrown, failureOf } from "../support/block-device-contract.js";
import { holdInChild } from "../support/child.js";
import { temporaryFolder } from "../support/make-folder.js";

const ways = nativeCalls() === undefined ? (["none"] as const) : (["default", "none"] as const);

describe.each(ways)("a lock file, system calls: %s", (way) => {
  const how = way === "none" ? { native: "none" as const } : {};

  test("has one holder at a time, and the next one waits", async () => {
    const path = join(temporaryFolder(), "lock");
    const first = await lockFile(path, { ...how, purpose: "pool create" });
    expect(tryLockFile(path, how)).toBeUndefined();
    const order: string[] = [];
    const waiting = lockFile(path, how).then((lock) => {
      order.push("second");
      return lock;
    });
    order.push("released");
    first.release();
    first.release();
    (await waiting).release();
    expect(order).toEqual(["released", "second"]);
  });

  test("gives up when the time is up, and says who holds it", async () => {
    const path = join(temporaryFolder(), "lock");
    using _held = await lockFile(path, how);
    await expect(lockFile(path, { ...how, timeoutMs: 0 })).rejects.toThrow(`${path}: locked by this process`);
    expect(await failureOf(lockFile(path, { ...how, timeoutMs: 20 }))).toBe("EBUSY");
  });

  test("that was removed and made again has a new holder", async () => {
    const path = join(temporaryFolder(), "lock");
    using _old = await lockFile(path, how);
    rmSync(path);
    using _new = await lockFile(path, { ...how, timeoutMs: 0 });
    expect(tryLockFile(path, how)).toBeUndefined();
  });

  test("without its folder is an error", () => {
    expect(codeThrown(() => tryLockFile("/nonexistent/folder/lock", how))).toBe("ENOENT");
  });
});

test("a lock ends with its process, and names pid and purpose until then", async () => {
  const path = join(temporaryFolder(), "lock");
  const child = await holdInChild('return io.lockFile(args[0], { purpose: "udm thin import" })', [path]);
  try {
    await expect(lockFile(path, { timeoutMs: 10 })).rejects.toThrow(
      `${path}: locked by process ${child.pid} (udm thin import) for 0.01 s`,
    );
  } finally {
    await child.kill();
  }
  (await lockFile(path)).release();
});

describe.each([
  ["", async (...request: Parameters<typeof replaceFile>) => replaceFile(...request)],
  [" in the thread pool", replaceFileInPool],
] as const)("replacing a file%s", (_where, replace) => {
  test("keeps the previous one where asked, and leaves nothing else behind", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "state.json");
    const previousPath = join(folder, "state.json.previous");
    for (const text of ["one", "two", "three"]) await replace(path, text, { previousPath });
    expect(readFileSync(path, "utf8")).toBe("three");
    expect(readFileSync(previousPath, "utf8")).toBe("two");
    expect(readdirSync(folder).sort()).toEqual(["state.json", "state.json.previous"]);
    await replace(path, new Uint8Array([1, 2, 3]), { mode: 0o640 });
    expect([...readFileSync(path)]).toEqual([1, 2, 3]);
    expect(statSync(path).mode & 0o777).toBe(0o640);
    expect(readFileSync(previousPath, "utf8")).toBe("two");
  });

  test("gets past what a crash left beside it", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "state.json");
    writeFileSync(`${path}.new`, "half a fi");
    writeFileSync(join(folder, "previous.new"), "x");
    writeFileSync(path, "old");
    await replace(path, "new", { previousPath: join(folder, "previous") });
    expect(readFileSync(path, "utf8")).toBe("new");
    expect(readFileSync(join(folder, "previous"), "utf8")).toBe("old");
    expect(readdirSync(folder).sort()).toEqual(["previous", "state.json"]);
  });

  test("that fails leaves the old one in place", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "state.json");
    mkdirSync(path);
    expect(await failureOf(replace(path, "new"))).not.toBe("none");
    expect(existsSync(`${path}.new`)).toBe(false);
    expect(await failureOf(replace(join(folder, "none", "state.json"), "new"))).toBe("ENOENT");
  });

  test.skipIf(process.getuid?.() === 0)(
    "in a folder without permission is refused (as root: everything is permitted)",
    async () => {
      const folder = temporaryFolder();
      chmodSync(folder, 0o500);
      expect(await failureOf(replace(join(folder, "f"), "new"))).toBe("EACCES");
      chmodSync(folder, 0o700);
    },
  );
});
