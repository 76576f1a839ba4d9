/** Attached devices at a size that does not fit a coffee break: a root file system, and a daemon that is killed again and again. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { whyNoAttaching, withAttaching } from "../support/attached-session.js";

const reason = whyNoAttaching();
const KILLS = Number(process.env.UDM_TEST_KILLS ?? 100);

describe.skipIf(reason !== undefined)(`attached devices${reason === undefined ? "" : ` (${reason})`}`, () => {
  test("a root file system unpacked on a mounted snapshot is what was packed", () =>
    withAttaching(async (session) => {
      await session.ok("pool resize pool 8g");
      await session.ok("thin create pool base --size 4g");
      await session.ok("attach base");
      await session.sh("mkfs.ext4 -q dev/base");
      await session.ok("detach base");
      await session.ok("thin snap base layer");
      await session.ok(["mount", "layer", session.path("mnt")]);
      // This system's own programs and settings, with links, modes, owners, times and attributes.
      const what = "etc usr/bin usr/sbin usr/lib/x86_64-linux-gnu usr/share/doc usr/share/perl";
      await session.sh(
        `cd /; tar --xattrs -cf ${session.path("root.tar")} --ignore-failed-read $(ls -d ${what} 2>/dev/null)`,
      );
      const unpacked = session.sh("tar --xattrs -C mnt -xpf root.tar; sync -f mnt");
      unpacked.catch(() => undefined);
      for (let index = 0; index < 5; index++) {
        await new Promise((resolve) => setTimeout(resolve, 400));
        await session.ok(`thin snap layer during${index}`);
      }
      await unpacked;
      await session.ok("thin snap layer done");
      await session.ok(["mount", "done", session.path("mnt2"), "-o", "ro"]);
      for (const folder of ["mnt", "mnt2"]) expect(await session.sh(`tar --xattrs -C ${folder} -df root.tar`)).toBe("");
      await session.ok("umount done");
      await session.ok("umount layer");
      for (const name of ["layer", "done", "during0", "during4"]) {
        await session.ok(`attach ${name}`);
        await session.sh(
          `e2fsck -fy dev/${name} >/dev/null 2>&1 || [ $? = 1 ]; e2fsck -fn dev/${name} >/dev/null 2>&1`,
        );
        await session.ok(`detach ${name}`);
      }
      // What was below has not changed.
      await session.ok(["mount", "base", session.path("mnt")]);
      expect(await session.sh("ls mnt")).toBe("lost+found");
      await session.ok("umount base");
      await session.udm("daemon stop");
      await session.sh("thin_check -q meta");
    }));

  test(`what a flush had acknowledged is there after each of ${KILLS} kills of the daemon`, () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 256m");
      await session.ok("attach a");
      await session.sh("mkfs.ext4 -q dev/a");
      await session.ok("detach a");
      let most = 0;
      for (let kill = 0; kill < KILLS; kill++) {
        await session.ok(["mount", "a", session.path("mnt")]);
        // Each line of the log is written, and only then told, once the file it names is on the disk.
        const writer = session.sh(`
          for ((i = 0; i < 2000; i++)); do
            head -c $((RANDOM * 3 + 1)) /dev/urandom > mnt/f$((i % 40)).new || break
            sync mnt/f$((i % 40)).new && mv mnt/f$((i % 40)).new mnt/g$i && sync -f mnt || break
            (cd mnt && sha256sum g$i) >> told || break
            if ((i >= 20)); then rm mnt/g$((i - 20)); sed -i 1d told; fi
          done 2>/dev/null; true`);
        await new Promise((resolve) => setTimeout(resolve, 300 + ((kill * 97) % 700)));
        if (kill % 3 === 1) await session.udm(`thin snap a s${kill}`);
        await session.killDaemon();
        await writer;
        await session.ok("umount a");
        await session.ok("attach a");
        await session.sh("e2fsck -fp dev/a >/dev/null 2>&1 || [ $? = 1 ]");
        await session.ok("detach a");
        await session.ok(["mount", "a", session.path("mnt"), "-o", "ro"]);
        const told = readFileSync(session.path("told"), "utf8").split("\n").slice(0, -1);
        most = Math.max(most, told.length);
        // The oldest may have been on its way out.
        await session.sh("tail -n +3 told > there; cd mnt; sha256sum --quiet -c ../there");
        await session.ok("umount a");
        await session.ok(["mount", "a", session.path("mnt")]);
        await session.sh("rm -f mnt/g* mnt/f* told; sync -f mnt");
        await session.ok("umount a");
        if (kill % 10 === 9) {
          await session.udm("daemon stop");
          await session.sh("thin_check -q meta");
        }
      }
      expect(most).toBeGreaterThan(3);
    }));
});
