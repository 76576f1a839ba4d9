import { linkSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { Claims, findHolders, identityOf, kernelLoopsOver, nativeCalls, run } from "../../src/io/index.js";
import { codeThrown } from "../support/block-device-contract.js";
import { holdInChild } from "../support/child.js";
import { attachLoop, detachLoop, whyNoKernelLoops } from "../support/kernel-loops.js";
import { temporaryFolder } from "../support/make-folder.js";

const hasNative = nativeCalls() !== undefined;
const noLoops = whyNoKernelLoops();

function makeFile(name = "data.img", bytes = 65536): string {
  const path = join(temporaryFolder(), name);
  writeFileSync(path, "");
  truncateSync(path, bytes);
  return path;
}

const ways = hasNative ? (["default", "none"] as const) : (["none"] as const);

describe.each(ways)("claims of files, system calls: %s", (way) => {
  const make = () => new Claims(way === "none" ? { native: "none" } : {});

  test("a second writer is refused with the name of the first role, through any path", () => {
    const path = makeFile();
    const link = `${path}.link`;
    const symlink = `${path}.sym`;
    linkSync(path, link);
    symlinkSync(path, symlink);
    const claims = make();
    const claim = claims.claim({ path, role: "data of pool p" });
    expect(() => claims.claim({ path, role: "metadata of pool p" })).toThrow(`${path}: is already the data of pool p`);
    for (const other of [link, symlink]) {
      expect(() => claims.claim({ path: other, role: "metadata of pool p" })).toThrow(
        `${other}: is already the data of pool p (as ${path})`,
      );
    }
    expect(claims.rolesOf(symlink)).toEqual(["data of pool p"]);
    claim.release();
    claim.release();
    claims.claim({ path: link, role: "metadata of pool p" }).release();
  });

  test("two hosts exclude each other, in one process too", () => {
    const path = makeFile();
    using first = make().claim({ path, role: "data of pool p" });
    expect(() => make().claim({ path, role: "data of pool q" })).toThrow(`${path}: is held by this process`);
    expect(() => make().claim({ path, role: "data of pool q", readOnly: true })).toThrow(
      `${path}: is held by this process`,
    );
    first.release();
    make().claim({ path, role: "data of pool q" }).release();
  });

  test("readers share, and keep a writer out", () => {
    const path = makeFile();
    using first = make().claim({ path, role: "origin", readOnly: true });
    using second = make().claim({ path, role: "origin", readOnly: true });
    expect(codeThrown(() => make().claim({ path, role: "data" }))).toBe("EBUSY");
    first.release();
    expect(codeThrown(() => make().claim({ path, role: "data" }))).toBe("EBUSY");
    second.release();
    make().claim({ path, role: "data" }).release();
  });

  test("two parts of one file are two devices for the same host", () => {
    const path = makeFile();
    const claims = make();
    using first = claims.claim({ path, role: "metadata", lengthBytes: 32768 });
    using second = claims.claim({ path, role: "data", offsetBytes: 32768 });
    expect(codeThrown(() => claims.claim({ path, role: "third", offsetBytes: 4096, lengthBytes: 512 }))).toBe("EBUSY");
    expect(codeThrown(() => claims.claim({ path, role: "third", offsetBytes: 1048576 }))).toBe("EBUSY");
    first.release();
    claims.claim({ path, role: "third", offsetBytes: 4096, lengthBytes: 512 }).release();
    expect(codeThrown(() => make().claim({ path, role: "data", offsetBytes: 40960 }))).toBe("EBUSY");
    second.release();
  });

  test("what cannot be opened cannot be claimed", () => {
    expect(codeThrown(() => make().claim({ path: "/nonexistent/file", role: "data" }))).toBe("ENOENT");
  });
});

describe("claims and other processes", () => {
  test("a holder is named with pid and command, and its end ends the claim", async () => {
    const path = makeFile();
    const child = await holdInChild('return new io.Claims().claim({ path: args[0], role: "data" })', [path]);
    try {
      expect(() => new Claims().claim({ path, role: "data" })).toThrow(
        new RegExp(`^${path}: is held by process ${child.pid} \\(.*node`),
      );
      expect(findHolders(identityOf(path)).map((holder) => holder.pid)).toEqual([child.pid]);
    } finally {
      await child.kill();
    }
    new Claims().claim({ path, role: "data" }).release();
  });

  test("with and without koffi they exclude each other", async () => {
    const path = makeFile();
    const child = await holdInChild('return new io.Claims({ native: "none" }).claim({ path: args[0], role: "data" })', [
      path,
    ]);
    try {
      expect(() => new Claims().claim({ path, role: "data" })).toThrow(`is held by process ${child.pid}`);
    } finally {
      await child.kill();
    }
    using _held = new Claims().claim({ path, role: "data" });
    expect(codeThrown(() => new Claims({ native: "none" }).claim({ path, role: "data" }))).toBe("EBUSY");
  });

  test.skipIf(!hasNative)("two parts of a file may have two holders", async () => {
    const path = makeFile();
    const child = await holdInChild(
      'return new io.Claims().claim({ path: args[0], role: "data", lengthBytes: 4096 })',
      [path],
    );
    try {
      new Claims().claim({ path, role: "data", offsetBytes: 4096 }).release();
      expect(codeThrown(() => new Claims().claim({ path, role: "data", offsetBytes: 2048 }))).toBe("EBUSY");
    } finally {
      await child.kill();
    }
  });
});

describe.skipIf(noLoops !== undefined)(`claims and the kernel${noLoops === undefined ? "" : `: ${noLoops}`}`, () => {
  test("the backing file of a kernel loop device is refused, through any path", async () => {
    const path = makeFile();
    const link = `${path}.link`;
    linkSync(path, link);
    const loop = await attachLoop(path);
    try {
      expect(kernelLoopsOver(identityOf(link)).map((each) => each.path)).toEqual([loop]);
      for (const each of [path, link]) {
        expect(() => new Claims().claim({ path: each, role: "data" })).toThrow(
          `${each}: is the backing file of ${loop}`,
        );
      }
      expect(codeThrown(() => new Claims().claim({ path, role: "origin", readOnly: true }))).toBe("EBUSY");
    } finally {
      await detachLoop(loop);
    }
    new Claims().claim({ path, role: "data" }).release();
  });

  test("a read-only loop device does not keep readers out", async () => {
    const path = makeFile();
    const loop = await attachLoop(path, "--read-only");
    try {
      new Claims().claim({ path, role: "origin", readOnly: true }).release();
      expect(codeThrown(() => new Claims().claim({ path, role: "data" }))).toBe("EBUSY");
    } finally {
      await detachLoop(loop);
    }
  });

  test("a block device is held exclusively, by whatever node it is reached", async () => {
    const path = makeFile();
    const loop = await attachLoop(path);
    const symlink = `${path}.dev`;
    symlinkSync(loop, symlink);
    const claims = new Claims();
    try {
      const metadata = claims.claim({ path: loop, role: "metadata", lengthBytes: 4096 });
      const data = claims.claim({ path: symlink, role: "data", offsetBytes: 4096 });
      expect(codeThrown(() => claims.claim({ path: loop, role: "third" }))).toBe("EBUSY");
      expect(() => new Claims().claim({ path: symlink, role: "data" })).toThrow(`${symlink}: is held by`);
      metadata.release();
      expect(codeThrown(() => new Claims().claim({ path: loop, role: "data" }))).toBe("EBUSY");
      data.release();
      new Claims().claim({ path: loop, role: "data" }).release();
    } finally {
      await detachLoop(loop);
    }
  });

  test("a mounted device and swap are refused by name", async () => {
    const path = makeFile("disk.img", 8 * 1048576);
    await run("mkfs.ext4", ["-q", path]);
    const folder = temporaryFolder();
    const loop = await attachLoop(path);
    try {
      await run("mount", [loop, folder]);
      try {
        expect(() => new Claims().claim({ path: loop, role: "data" })).toThrow(`${loop}: is mounted at ${folder}`);
        expect(() => new Claims().claim({ path, role: "data" })).toThrow(`${path}: is the backing file of ${loop}`);
      } finally {
        await run("umount", [folder]);
      }
    } finally {
      await detachLoop(loop);
    }
  });
});
