/**
 * Attached devices on a kernel that has all of it: this program in the guest, by FUSE and by the kernel's NBD client, under
 * file systems that grow while they are mounted, and with a daemon that is killed under them.
 */
import { expect, test } from "vitest";
import { runProgramInGuest } from "./guest/program.js";

const MAKE = `udm pool create pool --data d --metadata m --data-size 1g --metadata-size 8m
udm thin create pool a --size 64m
mkdir -p /mnt/a /mnt/b
`;

/** How far it came. @throws when it did not come to its end */
async function run(script: string): Promise<string> {
  const result = await runProgramInGuest(`${MAKE}${script}\necho end\n`);
  expect(result, result.stdout + result.console).toMatchObject({ status: 0, stdout: expect.stringMatching(/^end$/m) });
  return result.stdout;
}

test("ext4 grows while it is mounted, and while it is written; trimming gives blocks back; a snapshot is a point in time", async () => {
  await run(`
udm attach a > /dev/null
mkfs.ext4 -q /dev/mapper/a
udm mount a /mnt/a
dd if=/dev/urandom of=/tmp/bytes bs=1M count=24 2> /dev/null
cp /tmp/bytes /mnt/a/bytes; sync -f /mnt/a
before=$(sizeof /mnt/a)
fio --name=x --directory=/mnt/a --size=8m --rw=randwrite --bs=4k --iodepth=8 --ioengine=libaio --direct=1 --fsync=16 --verify=crc32c \\
  --verify_fatal=1 --do_verify=1 --loops=3 > fio.out 2>&1 & load=$!
# Every one of them, whatever is written meanwhile.
for size in 80 96 128 160 256; do
  udm thin resize a "$size"m
  [ "$(blockdev --getsize64 /dev/mapper/a)" = $((size << 20)) ]
done
resize2fs /dev/mapper/a > resize.out 2>&1
[ "$(sizeof /mnt/a)" -gt $((before * 3)) ]
# In memory only, so far.
cp /tmp/bytes /mnt/a/unflushed
udm thin snap a s
wait $load
cmp /tmp/bytes /mnt/a/bytes
cp /tmp/bytes /mnt/a/more; cp /tmp/bytes /mnt/a/and-more; sync -f /mnt/a
full=$(mapped a)
rm /mnt/a/more /mnt/a/and-more; sync -f /mnt/a
fstrim /mnt/a
[ "$(mapped a)" -lt $((full - (40 << 20))) ]
udm umount a
for name in a s; do
  udm attach $name > /dev/null
  e2fsck -fp /dev/mapper/$name > fsck.out 2>&1 || [ $? = 1 ]
  e2fsck -fn /dev/mapper/$name > fsck.out 2>&1
  udm mount $name /mnt/b
  cmp /tmp/bytes /mnt/b/bytes
  cmp /tmp/bytes /mnt/b/unflushed
  udm umount $name
done
udm daemon stop
# thin_check wants O_DIRECT, which tmpfs has not.
udm metadata check m > /dev/null`);
});

test("a killed daemon hangs nobody: errors at once, then doctor tells what to do, and what was flushed is there", async () => {
  await run(`
udm attach a > /dev/null
mkfs.ext4 -q /dev/mapper/a
udm mount a /mnt/a
dd if=/dev/urandom of=/tmp/bytes bs=1M count=8 2> /dev/null
cp /tmp/bytes /mnt/a/bytes; sync -f /mnt/a
for round in 1 2 3; do
  fio --name=x --directory=/mnt/a --size=16m --rw=randwrite --bs=4k --fsync=4 --time_based --runtime=900 > fio.out 2>&1 & load=$!
  sleep 2
  kill_daemon
  ! wait $load
  mend > mend.out
  grep -q 'udm umount /mnt/a' mend.out
  udm attach a > /dev/null
  e2fsck -fp /dev/mapper/a > fsck.out 2>&1 || [ $? = 1 ]
  udm mount a /mnt/a
  cmp /tmp/bytes /mnt/a/bytes
done
udm daemon stop
! grep -q /mnt/a /proc/self/mounts
# thin_check wants O_DIRECT, which tmpfs has not.
udm metadata check m > /dev/null`);
});

test("by the kernel's NBD client: mkfs, mount, load, snapshot, read-only, and the same after the daemon was killed", async () => {
  await run(`
udm attach a --via nbd > /dev/null
[ "$(readlink /dev/mapper/a)" = /dev/nbd0 ]
udm doctor --quiet > /dev/null
mkfs.ext4 -q /dev/mapper/a
udm mount a /mnt/a
fio --name=x --directory=/mnt/a --size=8m --rw=randwrite --bs=4k --iodepth=8 --ioengine=libaio --direct=1 --fsync=16 --verify=crc32c \\
  --verify_fatal=1 --do_verify=1 > fio.out 2>&1
dd if=/dev/urandom of=/tmp/bytes bs=1M count=8 2> /dev/null
cp /tmp/bytes /mnt/a/bytes
udm thin snap a s
! udm detach a 2> busy.out
grep -q 'mounted at /mnt/a' busy.out
fstrim /mnt/a
udm umount a
[ ! -e /dev/mapper/a ]
udm attach s --via nbd --read-only > /dev/null
[ "$(blockdev --getro /dev/mapper/s)" = 1 ]
udm detach s
udm mount s /mnt/b --via nbd
cmp /tmp/bytes /mnt/b/bytes
udm umount s
udm attach a --via nbd --sector-size 4096 > /dev/null
[ "$(blockdev --getss /dev/mapper/a)" = 4096 ]
udm detach a
udm attach a --via nbd > /dev/null
udm mount a /mnt/a
cmp /tmp/bytes /mnt/a/bytes
cp /tmp/bytes /mnt/a/flushed; sync -f /mnt/a
kill_daemon
! timeout $limit dd if=/dev/mapper/a of=/dev/null bs=1M iflag=direct 2> /dev/null
mend > mend.out
grep -q 'udm umount /mnt/a' mend.out
[ ! -e /dev/mapper/a ]
udm attach a --via nbd > /dev/null
udm mount a /mnt/a
cmp /tmp/bytes /mnt/a/flushed
udm umount a
# One that nobody used is cleared up without a word by whoever attaches next.
udm attach a --via nbd > /dev/null
kill_daemon
udm attach a --via nbd > /dev/null
[ "$(readlink /dev/mapper/a)" = /dev/nbd0 ]
udm daemon stop
[ "$(cat /sys/block/nbd0/size)" = 0 ]
# thin_check wants O_DIRECT, which tmpfs has not.
udm metadata check m > /dev/null`);
});
