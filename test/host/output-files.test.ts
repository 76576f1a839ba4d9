/** Files that take their name when they are whole: through links, over what a killed process left, beside one that writes. */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { NewDeviceFile } from "../../src/host/new-device-file.js";
import { OutputFile } from "../../src/host/output-file.js";
import { placeOf } from "../../src/host/part-file.js";
import { nativeCalls } from "../../src/io/index.js";
import { temporaryFolder } from "../support/make-folder.js";

let folder: string;
beforeEach(() => {
  folder = temporaryFolder();
});

const at = (name: string) => join(folder, name);
const parts = (under = folder) => readdirSync(under).filter((name) => name.endsWith(".part"));

function writeTo(path: string, text: string): void {
  using file = new OutputFile(path);
  file.write(Buffer.from(text));
  file.finish();
}

describe("a name that is a symbolic link", () => {
  test("stays one, and what it leads to is replaced", () => {
    mkdirSync(at("far"));
    writeFileSync(at("far/file"), "before");
    symlinkSync("far/file", at("near"));
    symlinkSync("near", at("link"));
    {
      using file = new OutputFile(at("link"));
      file.write(Buffer.from("after"));
      // Beside the file, where a rename needs no copy.
      expect([parts(), parts(at("far"))]).toEqual([[], [`file.${process.pid}.part`]]);
      expect(readFileSync(at("far/file"), "utf8")).toBe("before");
      file.finish();
    }
    expect(readFileSync(at("far/file"), "utf8")).toBe("after");
    expect([readlinkSync(at("link")), readlinkSync(at("near")), parts(at("far"))]).toEqual(["near", "far/file", []]);
  });

  test("to nothing gets its target made", async () => {
    symlinkSync("target", at("link"));
    writeTo(at("link"), "made");
    expect(lstatSync(at("link")).isSymbolicLink()).toBe(true);
    expect(readFileSync(at("target"), "utf8")).toBe("made");

    symlinkSync(at("disk"), at("other"));
    await using file = new NewDeviceFile(at("other"), 8192);
    await file.device.write(4096, new Uint8Array(4096).fill(7));
    expect(existsSync(at("disk"))).toBe(false);
    await file.finish();
    expect(lstatSync(at("other")).isSymbolicLink()).toBe(true);
    expect(readFileSync(at("disk"))[4096]).toBe(7);
    expect(statSync(at("disk")).size).toBe(8192);
  });

  test("is followed from the folder it lies in", () => {
    mkdirSync(at("a"));
    mkdirSync(at("a/b"));
    symlinkSync("a/b", at("short"));
    symlinkSync("../file", at("a/b/link"));
    expect(placeOf(at("short/link"))).toBe(at("a/file"));
    writeTo(at("short/link"), "x");
    expect(readFileSync(at("a/file"), "utf8")).toBe("x");
  });

  test("that leads to itself, or to a folder, is refused", async () => {
    symlinkSync("round", at("round"));
    symlinkSync(folder, at("folder"));
    for (const make of [() => new OutputFile(at("round")), () => new NewDeviceFile(at("round"), 4096)]) {
      expect(make).toThrow(/round: too many symbolic links/);
    }
    expect(() => new OutputFile(at("folder"))).toThrow(/folder: is a folder/);
    expect(() => new OutputFile(at("none/file"))).toThrow(/none\/file: cannot be written/);
    writeFileSync(at("plain"), "");
    expect(() => new OutputFile(at("plain/file"))).toThrow(/plain\/file: cannot be written: .*not a directory/);
    expect(parts()).toEqual([]);
  });

  test("to a device that has gone does not become a file among the devices", () => {
    symlinkSync("/dev/udm-no-such-device", at("gone"));
    for (const path of [at("gone"), "/dev/udm-no-such-device"]) {
      expect(() => new OutputFile(path)).toThrow(/no such device, and no place for a file/);
      expect(() => new NewDeviceFile(path, 4096)).toThrow(/no such device, and no place for a file/);
    }
    expect(existsSync("/dev/udm-no-such-device")).toBe(false);
  });

  test("to a descriptor is that: what is there is kept", () => {
    const fd = openSync(at("log"), "w");
    try {
      writeFileSync(fd, "head\n");
      writeTo(`/proc/self/fd/${fd}`, "more\n");
    } finally {
      closeSync(fd);
    }
    expect(readFileSync(at("log"), "utf8")).toBe("head\nmore\n");
    expect(readdirSync(folder)).toEqual(["log"]);
  });
});

describe("a file that is replaced", () => {
  test("keeps its permissions", () => {
    writeFileSync(at("file"), "before");
    chmodSync(at("file"), 0o640);
    {
      using file = new OutputFile(at("file"));
      expect(statSync(at(parts()[0]!)).mode & 0o777).toBe(0o640);
      file.write(Buffer.from("after"));
      file.finish();
    }
    expect([statSync(at("file")).mode & 0o777, readFileSync(at("file"), "utf8")]).toEqual([0o640, "after"]);
  });

  test("stays as it was when it is not finished", () => {
    writeFileSync(at("file"), "before");
    {
      using file = new OutputFile(at("file"));
      file.write(Buffer.from("half"));
    }
    expect(readFileSync(at("file"), "utf8")).toBe("before");
    expect(readdirSync(folder)).toEqual(["file"]);
  });
});

describe("what killed processes left", () => {
  /** Of a process that has ended. */
  const deadPid = () => spawnSync("true").pid;

  test("is cleared away by the next who writes to the same name", async () => {
    const dead = deadPid();
    // The present process may have the number of one that was killed in another life of the machine.
    const names = [`out.${dead}.part`, `out.${process.pid}.part`];
    for (const name of names) writeFileSync(at(name), "half");
    writeTo(at("out"), "whole");
    expect(readdirSync(folder)).toEqual(["out"]);

    writeFileSync(at(`disk.${dead}.part`), "half");
    symlinkSync("disk", at("link"));
    await using file = new NewDeviceFile(at("link"), 4096);
    expect(parts()).toEqual([`disk.${process.pid}.part`]);
    await file.finish();
  });

  test("and nothing else is", () => {
    const dead = deadPid();
    const others = [
      `out.${dead}.part.gz`,
      `out.0${dead}.part`,
      `out.x${dead}.part`,
      "out.part",
      `other.${dead}.part`,
      `out.${dead}`,
      `out.${process.ppid}.part`,
    ];
    for (const name of others) writeFileSync(at(name), "mine");
    writeFileSync(at("target"), "mine");
    symlinkSync("target", at(`out.${dead}.part`));
    writeTo(at("out"), "whole");
    expect(readdirSync(folder).sort()).toEqual([...others, "out", `out.${dead}.part`, "target"].sort());
    expect(readFileSync(at("target"), "utf8")).toBe("mine");
  });

  test("is told from what a process of another number space writes, by its lock", () => {
    const name = at(`out.${deadPid()}.part`);
    writeFileSync(name, "being written");
    const fd = openSync(name, "r+");
    expect(nativeCalls()!.flock(fd, "exclusive")).toBe(true);
    writeTo(at("out"), "whole");
    expect([readFileSync(at("out"), "utf8"), existsSync(name)]).toEqual(["whole", true]);
    closeSync(fd);
    // Nobody holds it any more.
    writeTo(at("out"), "again");
    expect(existsSync(name)).toBe(false);
  });

  test("two who write to one name at a time leave one of both, whole", () => {
    using one = new OutputFile(at("out"));
    one.write(Buffer.from("one"));
    // The same process cannot have two; its own is not taken for a leftover.
    expect(() => new OutputFile(at("out"))).toThrow(/out: cannot be written/);
    one.finish();
    expect(readFileSync(at("out"), "utf8")).toBe("one");
  });
});
