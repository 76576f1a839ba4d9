/** Shell scripts in the guest that call this program: its image is mounted, and is the root of what they see. */
import { join } from "node:path";
import { withTemporaryFolder } from "../../support/temporary-folder.js";
import { makeProgramImage } from "./program-image.js";
import { type GuestResult, runInGuest } from "./run.js";

const MEMORY_MIB = 2048;
/** /tmp and /mnt are empty and can be written; modules are loaded outside, where they lie. */
const OUTER = `set -e
for module in ext4 fuse loop nbd; do modprobe $module; done
ip link set lo up
mkdir /host
mount -t ext4 -o ro /dev/vda /host
for folder in dev proc sys; do mount --bind /$folder /host/$folder; done
for folder in tmp run mnt; do mount -t tmpfs $folder /host/$folder; done
cp /work/inner /host/tmp/inner
exec chroot /host /bin/bash /tmp/inner
`;
/** Every step has its time, by the measure of an emulated processor on a busy machine: what would hang fails. */
const PRELUDE = `set -Eeuo pipefail
export PATH=/usr/bin HOME=/tmp LC_ALL=C UDM_STATE_DIR=/tmp/state UDM_RUN_DIR=/tmp/run
cd /tmp
limit=500
trap 'echo "failed: $BASH_COMMAND"; cat /tmp/run/*.log 2>/dev/null; tail -n 20 /tmp/*.out 2>/dev/null; exit 9' ERR
for program in mkfs.ext4 mount umount resize2fs e2fsck fstrim sync cp cmp dd blkdiscard fio; do
  eval "$program() { timeout -k 5 $limit $program \\"\\$@\\"; }"
done
udm() { timeout -k 5 $limit udm "$@"; }
mapped() { udm thin list --json | grep -A 12 "\\"name\\": \\"$1\\"" | sed -n 's/.*"mapped": \\([0-9]*\\).*/\\1/p' | head -n 1; }
# What doctor tells to do is done, and nothing is wrong any more.
mend() {
  if udm doctor --quiet > doctor.out; then echo 'doctor found nothing'; return 1; fi
  cat doctor.out
  sed -n 's/^  \\(udm .*\\)/\\1/p' doctor.out > mend.sh
  . ./mend.sh
  udm doctor --quiet > doctor.out || { cat doctor.out; return 1; }
}
kill_daemon() { kill -9 $(udm daemon status --json | sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p'); sleep 1; }
sizeof() { df --output=size -B1 "$1" | tail -n 1; }
`;

/** What the script prints, and its status, which is 9 when a line of it failed. The program has been built. */
export function runProgramInGuest(script: string): Promise<GuestResult> {
  return withTemporaryFolder("udm-program-", async (folder) => {
    const image = join(folder, "program.img");
    await makeProgramImage(image, folder);
    return runInGuest(OUTER, [image], { files: { inner: PRELUDE + script }, memoryMiB: MEMORY_MIB });
  });
}
