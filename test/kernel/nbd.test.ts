/** The kernel's own NBD client on our server: a file system on a thin device, over two connections, trimmed and checked. */
import { expect, test } from "vitest";
import { DeviceExport, NbdServer } from "../../src/nbd/index.js";
import { PoolBench } from "../support/pool-bench.js";
import { runInGuest } from "./guest/run.js";

const BLOCK = 65536;

test("nbd-client in a kernel: mkfs, files, fstrim, fsck, and what was written is there the second time", async () => {
  const bench = await PoolBench.open({ dataBlocks: 4096, thinBlocks: 3072 });
  const thin = await bench.create(0);
  const log: string[] = [];
  const server = await NbdServer.listen({
    address: { kind: "tcp", host: "127.0.0.1", port: 0 },
    exports: [new DeviceExport(thin, { name: "disk" })],
    log: (line) => log.push(line),
  });
  const port = server.address.kind === "tcp" ? server.address.port : 0;
  // With two connections the kernel gives one up that has not answered for 30 seconds, which a busy machine may need.
  const script = `set -e
trap 'status=$?; [ $status = 0 ] || dmesg | tail -n 40' EXIT
modprobe virtio_net; modprobe nbd; modprobe ext4
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
attach() { nbd-client 10.0.2.2 ${port} /dev/nbd0 -N disk -C 2 -timeout 900 >/dev/null; }
attach
echo size $(cat /sys/block/nbd0/size)
mkfs.ext4 -q -F /dev/nbd0
mount /dev/nbd0 /mnt
dd if=/dev/urandom of=/mnt/random bs=1M count=24 2>/dev/null
dd if=/dev/zero of=/mnt/gone bs=1M count=40 2>/dev/null
sync
sha256sum < /mnt/random > /tmp/sum
rm /mnt/gone
sync
fstrim /mnt
umount /mnt
nbd-client -d /dev/nbd0 >/dev/null
attach
e2fsck -fn /dev/nbd0 >/dev/null 2>&1
mount -o ro /dev/nbd0 /mnt
sha256sum < /mnt/random | cmp - /tmp/sum && echo same
umount /mnt
nbd-client -d /dev/nbd0 >/dev/null
`;
  const result = await runInGuest(script, [], { hasNetwork: true });
  expect(result, [result.stdout, ...log].join("\n")).toMatchObject({ status: 0, stdout: `size ${(3072 * BLOCK) / 512}\nsame\n` });
  expect([server.connections, log]).toEqual([0, []]);
  await server.close();
  // The superblock of the file system, and no more than what is in it: the 40 MiB that were trimmed are gone.
  const superblock = new Uint8Array(1024);
  await thin.read(1024, superblock);
  expect([superblock[56], superblock[57]]).toEqual([0x53, 0xef]);
  expect(thin.mappedBlocks * BLOCK).toBeLessThan(48 * 2 ** 20);
  expect(thin.mappedBlocks * BLOCK).toBeGreaterThan(24 * 2 ** 20);
  await bench.close();
});
