import { closeSync, openSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { codeForErrno, errnoName, nativeCalls, nativeSupport, run, runSync } from "../../src/io/index.js";
import { codeThrown, failureOf, pattern, sameBytes } from "../support/block-device-contract.js";
import { temporaryFolder } from "../support/make-folder.js";

const { available, reason } = nativeSupport();

describe.skipIf(!available)(`system calls${available ? "" : `: ${reason}`}`, () => {
  const native = nativeCalls()!;

  function withFile(size: number, body: (fd: number, path: string) => void): void {
    const path = join(temporaryFolder(), "f");
    writeFileSync(path, pattern(size, 1));
    const fd = openSync(path, "r+");
    try {
      body(fd, path);
    } finally {
      closeSync(fd);
    }
  }

  test("holes are punched, found and kept out of the file's size", () => {
    withFile(262144, (fd, path) => {
      native.punchHole(fd, { offset: 65536, length: 65536 });
      expect(statSync(path).size).toBe(262144);
      expect(native.seekData(fd, 65536)).toBe(131072);
      expect(native.seekHole(fd, 0)).toBe(65536);
      expect(native.seekHole(fd, 131072)).toBe(262144);
      expect(native.seekData(fd, 262144)).toBeUndefined();
      const wanted = pattern(262144, 1).fill(0, 65536, 131072);
      expect(sameBytes(readFileSync(path), wanted)).toBe(true);
    });
  });

  test("room is allocated with and without growing the file", () => {
    withFile(4096, (fd, path) => {
      native.allocate(fd, { offset: 0, length: 1048576 }, { keepSize: true });
      expect(statSync(path).size).toBe(4096);
      expect(statSync(path).blocks).toBeGreaterThanOrEqual(2048);
      native.allocate(fd, { offset: 0, length: 1048576 });
      expect(statSync(path).size).toBe(1048576);
    });
  });

  test("offsets above 32 bits arrive whole", () => {
    withFile(0, (fd, path) => {
      truncateSync(path, 2 ** 40);
      expect(native.seekData(fd, 2 ** 33)).toBeUndefined();
      native.allocate(fd, { offset: 2 ** 39, length: 4096 });
      expect(native.seekHole(fd, 2 ** 33)).toBe(2 ** 33);
      expect(native.punchHole(fd, { offset: 2 ** 39, length: 4096 })).toBeUndefined();
    });
  });

  test("ranges are copied inside the kernel", () => {
    withFile(65536, (from) => {
      withFile(8192, (to, path) => {
        expect(native.copyFileRange({ fd: from, offset: 4096 }, { fd: to, offset: 0 }, 8192)).toBe(8192);
        expect(sameBytes(readFileSync(path), pattern(65536, 1).subarray(4096, 12288))).toBe(true);
        expect(native.copyFileRange({ fd: from, offset: 65536 }, { fd: to, offset: 0 }, 8192)).toBe(0);
        native.startWriteback(to, { offset: 0, length: 8192 });
      });
    });
  });

  test("locks belong to the open file: two openings in one process exclude each other, by range", () => {
    withFile(4096, (first, path) => {
      const second = openSync(path, "r+");
      const whole = { offset: 0, length: 0 };
      expect(native.lockRange(first, "write", { offset: 0, length: 512 })).toBe(true);
      expect(native.lockRange(second, "write", whole)).toBe(false);
      expect(native.lockRange(second, "read", { offset: 0, length: 1 })).toBe(false);
      expect(native.lockInTheWay(second, "read", whole)).toEqual({ kind: "write", pid: undefined });
      expect(native.lockRange(second, "write", { offset: 512, length: 0 })).toBe(true);
      native.unlockRange(first, { offset: 0, length: 512 });
      expect(native.lockInTheWay(second, "write", { offset: 0, length: 512 })).toBeUndefined();
      expect(native.flock(first, "shared")).toBe(true);
      expect(native.flock(second, "shared")).toBe(true);
      expect(native.flock(second, "exclusive")).toBe(false);
      expect(native.flock(first, "unlock")).toBe(true);
      expect(native.flock(second, "exclusive")).toBe(true);
      closeSync(second);
      expect(native.lockRange(first, "write", whole)).toBe(true);
    });
  });

  test("a call that fails throws the errno's code", () => {
    withFile(4096, (fd) => {
      expect(codeThrown(() => native.blockDeviceBytes(fd))).toBe("EOPNOTSUPP");
      expect(codeThrown(() => native.punchHole(fd, { offset: -1, length: 4096 }))).toBe("EINVAL");
      expect(codeThrown(() => native.seekData(9999, 0))).toBe("EIO");
    });
  });

  test("memory for direct I/O is zeroed and writable to its end", () => {
    const memory = native.pageAlignedBuffer(65536);
    expect(memory.length).toBe(65536);
    expect(memory.every((byte) => byte === 0)).toBe(true);
    memory[65535] = 7;
    expect(memory[65535]).toBe(7);
  });
});

test("errno numbers have names, and names have codes", () => {
  expect([1, 2, 11, 28].map(errnoName)).toEqual(["EPERM", "ENOENT", "EAGAIN", "ENOSPC"]);
  expect(codeForErrno(errnoName(95))).toBe("EOPNOTSUPP");
  expect(errnoName(4000)).toBe("errno 4000");
  expect(["EDQUOT", "ENOTTY", "EBADF"].map(codeForErrno)).toEqual(["ENOSPC", "EOPNOTSUPP", "EIO"]);
});

describe("outside programs", () => {
  test("give back what they print, without the last line end", async () => {
    expect(await run("printf", ["a b\\n"])).toEqual({ status: 0, stdout: "a b", stderr: "" });
    expect(runSync("printf", ["a b\\n"])).toEqual({ status: 0, stdout: "a b", stderr: "" });
    expect((await run("cat", [], { input: "x\ny" })).stdout).toBe("x\ny");
    expect(runSync("cat", [], { input: "x\ny" }).stdout).toBe("x\ny");
  });

  test("see no shell", async () => {
    expect((await run("printf", ["%s", "$HOME; `id`"])).stdout).toBe("$HOME; `id`");
  });

  test("that fail carry their command and what they said in the error", async () => {
    const command = ["-c", "echo first >&2; echo second >&2; exit 3"];
    await expect(run("sh", command)).rejects.toThrow(/^sh -c '.*': exit status 3: first; second$/);
    expect(() => runSync("sh", command)).toThrow(/exit status 3: first; second$/);
    expect((await run("sh", command, { okStatuses: [0, 3] })).status).toBe(3);
    expect(await failureOf(run("sh", ["-c", "kill -9 $$"]))).toBe("EIO");
  });

  test("that are missing or never end are told apart", async () => {
    expect(await failureOf(run("udm-no-such-program", []))).toBe("ENOENT");
    expect(codeThrown(() => runSync("udm-no-such-program", []))).toBe("ENOENT");
    expect(await failureOf(run("sleep", ["60"], { timeoutMs: 50 }))).toBe("ETIMEDOUT");
    expect(codeThrown(() => runSync("sleep", ["60"], { timeoutMs: 50 }))).toBe("ETIMEDOUT");
  });
});
