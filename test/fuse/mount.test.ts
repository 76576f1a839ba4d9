/** Over the kernel's FUSE, from another process: what programs see of an image, and what becomes of a server that dies. */
import { describe, expect, test } from "vitest";
import { abortConnection, listFuseMounts, stateOfFuseMount, unmountFuse } from "../../src/fuse/index.js";
import { run } from "../../src/io/index.js";
import { whyNoFuse, withServedMount } from "./served-mount.js";

const reason = whyNoFuse();
const TIME_LIMIT_MS = 20_000;

/** A 64 MiB disk in memory that can be made larger. */
const DISK = `
  let sizeBytes = 64 * 2 ** 20;
  const memory = new io.MemoryDevice({ sizeBytes: 2 ** 30 });
  const device = new Proxy(memory, {
    get(target, key) {
      const value = key === "sizeBytes" ? sizeBytes : Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const file = mount.server.add({ name: "disk", device });
  return (word) => {
    if (word === "grow") { sizeBytes *= 2; const grew = file.takeUpSize(); mount.server.announceSize(file)(); return grew; }
    if (word === "allocated") return memory.allocatedBytes;
    return "?";
  };
`;

function bash(script: string): Promise<string> {
  return run("bash", ["-ec", script], { timeoutMs: TIME_LIMIT_MS }).then(({ stdout }) => stdout);
}

describe.skipIf(reason !== undefined)(`a mounted image${reason === undefined ? "" : ` (${reason})`}`, () => {
  test("is a file that cp, cmp, dd, fallocate and fio work on, that keeps its holes and grows with its device", () =>
    withServedMount(DISK, async ({ folder, tell }) => {
      expect(await bash(`ls ${folder}; stat -c '%s %a %F' ${folder}/disk`)).toBe("disk\n67108864 600 regular file");
      await bash(`cd ${folder}/..
        head -c 5000000 /dev/urandom > bytes && truncate -s 5001216 bytes
        dd if=bytes of=images/disk bs=1M seek=8 conv=notrunc,fsync status=none
        cp images/disk copy
        dd if=copy of=back bs=1M skip=8 count=5 status=none && truncate -s 5001216 back
        cmp bytes back`);
      expect(await bash(`xfs_io -r -c "seek -d 0" -c "seek -h 8388608" ${folder}/disk`)).toMatch(
        /DATA\s+8388608\n[\s\S]*HOLE\s+13389824$/,
      );
      const before = Number(await tell("allocated"));
      await bash(`fallocate --punch-hole --offset 8M --length 4M ${folder}/disk`);
      expect(Number(await tell("allocated"))).toBe(before - 4 * 2 ** 20);
      await bash(`cmp --bytes=4M --ignore-initial=8M:0 ${folder}/disk /dev/zero`);
      await bash(`cd ${folder}/..
        fio --name=x --filename=images/disk --size=64m --rw=randrw --bs=4k --iodepth=32 --ioengine=libaio --direct=1 \\
          --io_size=32m --verify=crc32c --verify_fatal=1 --output-format=terse >/dev/null`);

      for (const deed of [`truncate -s 1M ${folder}/disk`, `rm ${folder}/disk`, `touch ${folder}/other`]) {
        await expect(bash(deed), deed).rejects.toThrow(/not permitted|not implemented/);
      }
      expect(await tell("grow")).toBe("true");
      expect(await bash(`stat -c %s ${folder}/disk; tail -c 4096 ${folder}/disk | wc -c`)).toBe("134217728\n4096");

      expect(await tell("close")).toBe("undefined");
      expect(listFuseMounts().some((each) => each.folder === folder)).toBe(false);
    }));

  test("is gone at once when its server is killed: errors, and nothing hangs", () =>
    withServedMount(DISK, async ({ folder, child }) => {
      expect(await stateOfFuseMount(folder)).toBe("served");
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGKILL");
      await ended;
      await expect(bash(`cat ${folder}/disk`)).rejects.toThrow(/not connected/);
      expect(await stateOfFuseMount(folder)).toBe("dead");
      await unmountFuse(folder);
      expect(listFuseMounts().some((each) => each.folder === folder)).toBe(false);
    }));

  test("of a server that is stuck is let go by an abort, and whoever waited gets an error", () =>
    withServedMount(DISK, async ({ folder, child, connection }) => {
      child.kill("SIGSTOP");
      const reader = bash(`cat ${folder}/disk >/dev/null`).then(
        () => "read",
        (error: Error) => error.message,
      );
      expect(await stateOfFuseMount(folder)).toBe("stuck");
      expect(await abortConnection(connection)).toBe(true);
      expect(await reader).toMatch(/not connected|abort|Input\/output/);
      await unmountFuse(folder);
    }));
});
