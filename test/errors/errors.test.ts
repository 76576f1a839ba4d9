import { expect, test } from "vitest";
import {
  codeOf,
  DamageError,
  InvariantError,
  IoError,
  invariant,
  messageOf,
  SpaceError,
  StateError,
  UdmError,
  UsageError,
} from "../../src/errors/index.js";

test("every class is a UdmError with its code, its name and an exit status", () => {
  const samples: readonly (readonly [UdmError, string, string, number])[] = [
    [new UsageError("x"), "UsageError", "EUSAGE", 2],
    [new StateError("EBUSY", "x"), "StateError", "EBUSY", 1],
    [new SpaceError("x"), "SpaceError", "ENOSPC", 1],
    [new DamageError("x"), "DamageError", "EUCLEAN", 1],
    [new DamageError("x", {}, "EILSEQ"), "DamageError", "EILSEQ", 1],
    [new IoError("EIO", "x"), "IoError", "EIO", 1],
    [new InvariantError("x"), "InvariantError", "EBUG", 70],
  ];
  for (const [error, name, code, status] of samples) {
    expect(error).toBeInstanceOf(UdmError);
    expect([error.name, error.code, error.exitStatus]).toEqual([name, code, status]);
  }
});

test("the cause is kept, and absent when there is none", () => {
  const cause = new Error("below");
  expect(new IoError("EIO", "above", { cause }).cause).toBe(cause);
  expect("cause" in new IoError("EIO", "above")).toBe(false);
});

test("invariant passes what holds and says that the rest is our mistake", () => {
  invariant(true, "fine");
  expect(() => invariant(false, "two is three")).toThrow(/internal error: two is three/);
});

test("codes and messages of anything thrown", () => {
  expect(codeOf(new SpaceError("x"))).toBe("ENOSPC");
  expect(codeOf(Object.assign(new Error("x"), { code: "ENOENT" }))).toBe("ENOENT");
  for (const nothing of [undefined, null, "text", 5, new Error("x"), { code: 5 }])
    expect(codeOf(nothing)).toBeUndefined();
  expect(messageOf(new Error("two\n  lines"))).toBe("two lines");
  expect(messageOf("text")).toBe("text");
});
