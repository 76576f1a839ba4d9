/** Folders that are made, and files whose owner stays. */
import { chownSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { makeFolder, replaceFile, replaceFileInPool } from "../../src/io/index.js";
import { withTemporaryFolder } from "../support/temporary-folder.js";

describe("makeFolder", () => {
  test("makes what is missing, takes what is there, and refuses what is no folder", async () => {
    await withTemporaryFolder("udm-io-", async (folder) => {
      const path = join(folder, "a", "b", "c");
      makeFolder(path, 0o700);
      expect(statSync(path).mode & 0o777).toBe(0o700);
      makeFolder(path);
      writeFileSync(join(path, "file"), "");
      expect(() => makeFolder(join(path, "file"))).toThrow(/EEXIST/);
      expect(() => makeFolder(join(path, "file", "x"))).toThrow(/ENOTDIR/);
    });
  });

  test.runIf(existsSync("/proc/self"))("ends where nothing can be made", () => {
    expect(() => makeFolder("/proc/udm-none/a")).toThrow(/ENOENT/);
  });
});

describe.runIf(process.geteuid?.() === 0)("root who replaces somebody's file", () => {
  test("leaves it to its owner, and a new one to the folder's", async () => {
    await withTemporaryFolder("udm-io-", async (folder) => {
      const home = join(folder, "home");
      mkdirSync(home);
      chownSync(home, 65534, 65533);
      const [path, previousPath] = [join(home, "file"), join(home, "file.previous")];
      for (const text of ["1", "2"]) await replaceFileInPool(path, text, { previousPath });
      for (const text of ["3", "4"]) replaceFile(path, text, { previousPath });
      for (const each of [path, previousPath]) expect(statSync(each)).toMatchObject({ uid: 65534, gid: 65533 });
      expect([path, previousPath].map((each) => readFileSync(each, "utf8"))).toEqual(["4", "3"]);
      const own = join(folder, "own");
      replaceFile(own, "");
      expect(statSync(own).uid).toBe(0);
    });
  });
});
