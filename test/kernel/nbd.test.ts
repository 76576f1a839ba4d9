/**
 * The kernel's own NBD client on `udm serve`, both in the guest: a file system on a thin device, by way of TCP and two
 * connections, trimmed and checked.
 */
import { expect, test } from "vitest";
import { runProgramInGuest } from "./guest/program.js";

test("nbd-client in a kernel: mkfs, files, fstrim, fsck, and what was written is there the second time", async () => {
  const result = await runProgramInGuest(`
udm pool create pool --data d --metadata m --data-size 256m --metadata-size 8m
udm thin create pool disk --size 192m
udm daemon start > /dev/null
udm serve disk --nbd 127.0.0.1:10809 > serve.out 2>&1 & server=$!
for ((tries = 0; tries < 300; tries++)); do ! grep -q nbd: serve.out || break; sleep 0.2; done
# With several connections the kernel gives one up that does not answer for 30 seconds, and a busy machine may need them.
connect() { timeout $limit nbd-client 127.0.0.1 10809 /dev/nbd0 -N disk -C 2 -timeout 300 > client.out 2>&1; }
disconnect() { timeout $limit nbd-client -d /dev/nbd0 > client.out 2>&1; }
trap 'echo "failed: $BASH_COMMAND"; cat /tmp/run/*.log /tmp/*.out; dmesg | tail -n 40; exit 9' ERR
connect
echo size $(cat /sys/block/nbd0/size)
mkfs.ext4 -q -F /dev/nbd0
mount /dev/nbd0 /mnt
dd if=/dev/urandom of=/mnt/random bs=1M count=24 2> /dev/null
dd if=/dev/zero of=/mnt/gone bs=1M count=40 2> /dev/null
sync
sha256sum < /mnt/random > sum
full=$(mapped disk)
rm /mnt/gone
sync
fstrim /mnt
umount /mnt
# Most of the 40 MiB that were removed is gone, the rest is there.
left=$(mapped disk)
[ $((full - left)) -gt $((36 << 20)) ] && [ $left -gt $((24 << 20)) ]
disconnect
connect
e2fsck -fn /dev/nbd0 > fsck.out 2>&1
mount -o ro /dev/nbd0 /mnt
sha256sum < /mnt/random | cmp - sum && echo same
umount /mnt
disconnect
kill $server; wait $server || true
udm daemon stop
udm metadata check m > check.out
# As the device is without a server.
udm thin read disk --offset 1080 --length 2 > magic; printf '\\123\\357' | cmp - magic && echo ext4
`);
  expect(result, result.stdout + result.console).toMatchObject({
    status: 0,
    stdout: expect.stringMatching(/^size 393216\nsame\next4\n$/),
  });
});
