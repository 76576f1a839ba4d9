import fc from "fast-check";
import { expect, test } from "vitest";
import { bytesHead, type Frame, FrameReader, messageFrame } from "../../../src/host/daemon/frames.js";

const frame = fc.oneof(
  fc.jsonValue().map((value) => ({ kind: "message" as const, value: JSON.parse(JSON.stringify(value)) as unknown })),
  fc
    .tuple(fc.nat(2 ** 32 - 1), fc.uint8Array({ maxLength: 40 }))
    .map(([stream, bytes]) => ({ kind: "bytes" as const, stream, bytes: Buffer.from(bytes) })),
);

function encode(each: Frame): Buffer {
  if (each.kind === "message") return messageFrame(each.value);
  return Buffer.concat([bytesHead(each.stream, each.bytes.length), each.bytes]);
}

test("frames that are cut anywhere are read as the same frames", () => {
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 12 }), fc.array(fc.integer({ min: 1, max: 30 })), (frames, cuts) => {
      const wire = Buffer.concat(frames.map(encode));
      const reader = new FrameReader({ maxBytes: 2 ** 20 });
      const read: Frame[] = [];
      for (let at = 0, turn = 0; at < wire.length; turn++) {
        const length = cuts.length === 0 ? wire.length : cuts[turn % cuts.length]!;
        for (const each of reader.push(wire.subarray(at, at + length))) {
          read.push(each.kind === "bytes" ? { ...each, bytes: Buffer.from(each.bytes) } : each);
        }
        at += length;
      }
      expect(read).toEqual(frames);
    }),
  );
});

test("a length of nothing, one above the limit, another kind and what is not JSON are refused", () => {
  const head = (length: number, kind: number) => {
    const bytes = Buffer.alloc(5);
    bytes.writeUInt32LE(length, 0);
    bytes[4] = kind;
    return bytes;
  };
  for (const bytes of [
    head(0, 1),
    head(1001, 1),
    head(2 ** 32 - 1, 2),
    head(5, 0),
    head(5, 3),
    Buffer.concat([head(4, 2), Buffer.alloc(3)]),
    Buffer.concat([head(4, 1), Buffer.from("{x}")]),
  ]) {
    const reader = new FrameReader({ maxBytes: 1000 });
    expect(() => [...reader.push(bytes)]).toThrowError(expect.objectContaining({ code: "EINVAL" }));
  }
});
