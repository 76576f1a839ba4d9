/** Devices of udm as block devices of this machine: real programs on them, and everything that may go wrong. */
import { existsSync, lstatSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { schemaOf } from "../../src/commands/schema/json-schema.js";
import { listFuseMounts } from "../../src/fuse/index.js";
import { type AttachedSession, mayGrowExt4, whyNoAttaching, withAttaching } from "../support/attached-session.js";
import { faultsOf } from "../support/json-schema.js";
import { withSession } from "./session.js";

const reason = whyNoAttaching();

async function mappedBytes(session: AttachedSession, name: string): Promise<number> {
  const { thins } = JSON.parse(await session.ok("thin list --json")) as {
    thins: { name: string; mapped: number }[];
  };
  return thins.find((each) => each.name === name)!.mapped;
}

/** A clean pool, as the tools of others see it. */
async function checkPool(session: AttachedSession): Promise<void> {
  await session.udm("daemon stop");
  await session.sh("thin_check -q meta");
}

test("what needs root says so, and where to go without it", () =>
  withSession(async (session) => {
    await session.ok("pool create pool --data data --metadata meta --data-size 64m --metadata-size 4m");
    await session.ok("thin create pool a --size 16m");
    const plan = await session.ok("mount a mnt -o noatime --read-only --dry-run");
    expect(plan.split("\n").slice(0, -1)).toEqual([
      expect.stringMatching(/^losetup --find --show --read-only --direct-io=on \/.*\/run\/images-[0-9a-f]{12}\/a$/),
      "ln -s /dev/loopN /dev/mapper/a",
      "mount -o ro,noatime /dev/mapper/a mnt",
    ]);
    expect((await session.udm("attach nothing --dry-run")).stderr).toMatch(/^udm: .*nothing/);
    expect((await session.udm("attach a -b 1000")).status).not.toBe(0);
  }));

describe.skipIf(reason !== undefined)(`attached devices${reason === undefined ? "" : ` (${reason})`}`, () => {
  test("take a file system, discards and growth, and show as what they are", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 512m");
      expect(await session.ok("attach a")).toBe(`${session.dev("a")}\n`);
      const loop = readlinkSync(session.dev("a"));
      expect(loop).toMatch(/^\/dev\/loop\d+$/);
      const queue = (name: string) => Number(readFileSync(`/sys/block/${loop.slice(5)}/queue/${name}`, "utf8"));
      expect([queue("discard_granularity"), queue("logical_block_size")]).toEqual([65536, 512]);
      expect(await session.sh(`lsblk -bno SIZE,TYPE,RO ${session.dev("a")}`)).toMatch(/^\s*536870912 loop\s+0$/);
      const document: unknown = JSON.parse(await session.ok("attach a --if-not-exists --json"));
      expect(faultsOf(schemaOf("attachment"), document)).toEqual([]);
      expect(document).toMatchObject({
        attachment: {
          device: "a",
          path: session.dev("a"),
          node: loop,
          via: "fuse",
          directIo: true,
          sizeBytes: 2 ** 29,
        },
      });
      expect((await session.udm("attach a")).stderr).toBe(
        `udm: 'a' is attached at ${session.dev("a")} (sectors of 512 bytes)\nhint: udm detach a\n`,
      );

      await session.sh("mkfs.ext4 -q dev/a");
      await session.ok(["mount", "a", session.path("mnt")]);
      expect((await session.udm("detach a")).stderr).toBe(
        `udm: 'a' (${loop}) is mounted at ${session.path("mnt")}\nhint: udm umount ${session.path("mnt")}\n`,
      );
      const tree = await session.ok("lsblk -n -o NAME,MOUNTPOINT");
      expect(tree).toMatch(new RegExp(`-a\\s*\\n.*\`-${loop.slice(5)} +${session.path("mnt")}\\n`));
      expect((await session.udm("thin delete a")).stderr).toBe("udm: 'a' is in use: attached\nhint: udm detach a\n");
      await session.ok("thin snap a before");
      expect((await session.udm("thin rollback a before -y")).stderr).toBe(
        "udm: 'a' is in use: attached\nhint: udm detach a\n",
      );
      await session.ok("thin delete before -y");
      await session.sh("head -c 60000000 /dev/urandom > mnt/file; cp mnt/file copy; sync -f mnt");
      const full = await mappedBytes(session, "a");
      expect(full).toBeGreaterThan(60_000_000);
      await session.sh("rm mnt/file; sync -f mnt; fstrim mnt");
      expect(await mappedBytes(session, "a")).toBeLessThan(full - 55_000_000);

      // Larger, and at once: the command returns when the block device has its new size.
      await session.ok("thin resize a 1g");
      expect(await session.sh("blockdev --getsize64 dev/a")).toBe(String(2 ** 30));
      if (mayGrowExt4()) await session.sh("resize2fs dev/a 2>/dev/null");
      await session.sh("cp copy mnt/file");
      await session.ok(["umount", session.path("mnt")]);
      expect(existsSync(session.dev("a"))).toBe(false);
      expect((await session.udm("umount a")).stderr).toMatch(/^udm: 'a' is neither an attached device nor where/);

      await session.ok("attach a");
      await session.sh("e2fsck -fp dev/a; resize2fs -p dev/a >/dev/null 2>&1; e2fsck -fn dev/a >/dev/null 2>&1");
      await session.ok(["mount", "a", "mnt", "-o", "ro"]);
      await session.sh("cmp copy mnt/file");
      expect(Number(await session.sh("df --output=size -B1 mnt | tail -1"))).toBeGreaterThan(9e8);
      await session.ok("umount a");
      await checkPool(session);
      expect(listFuseMounts().filter(({ folder }) => folder.startsWith(session.folder))).toEqual([]);
    }));

  test("with sectors of 4096 bytes take XFS, which grows while it is mounted; a discarded device is empty", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool x --size 400m");
      await session.ok("attach x --sector-size 4096");
      expect(await session.sh("blockdev --getss dev/x")).toBe("4096");
      await session.sh("mkfs.xfs -q -f dev/x");
      await session.ok(["mount", "x", session.path("mnt"), "-t", "xfs"]);
      await session.sh("cp -r /usr/share/doc/bash mnt/; sync -f mnt");
      await session.ok("thin resize x +200m");
      await session.sh("xfs_growfs mnt >/dev/null");
      expect(Number(await session.sh("df --output=size -B1 mnt | tail -1"))).toBeGreaterThan(5e8);
      await session.ok("umount x");
      await session.ok("attach x -b 4096");
      await session.sh("xfs_repair -n dev/x >/dev/null 2>&1");
      await session.sh("blkdiscard -f dev/x");
      expect(await mappedBytes(session, "x")).toBe(0);
      // Zeros where there is nothing are no blocks.
      await session.sh("blkdiscard -z -o 4096 -l 8192 dev/x; blkdiscard -z dev/x; sync dev/x");
      expect(await mappedBytes(session, "x")).toBe(0);
      await session.ok("detach x");
      await checkPool(session);
    }));

  test("are a point in time in every snapshot that is made while they are written", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 512m");
      await session.ok("attach a");
      await session.sh("mkfs.ext4 -q dev/a");
      await session.ok(["mount", "a", session.path("mnt")]);
      const load = session.sh(`fio --name=x --directory=mnt --size=48m --rw=randwrite --bs=4k --iodepth=16 --direct=1 \\
        --ioengine=libaio --fsync=32 --verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=terse >/dev/null
        for i in $(seq 40); do mkdir mnt/d$i && cp /etc/passwd mnt/d$i/ && mv mnt/d$i mnt/e$i; done`);
      load.catch(() => undefined);
      for (let round = 1; round <= 4; round++) {
        await new Promise((resolve) => setTimeout(resolve, 150));
        await session.ok(`thin snap a s${round}`);
        await session.ok(`attach s${round}`);
        // 1: the journal was replayed, free counts are written anew, as after a power failure.
        await session.sh(`e2fsck -fy dev/s${round} >fsck.log 2>&1 || [ $? = 1 ]`);
        const log = readFileSync(session.path("fsck.log"), "utf8");
        const repairs = log.split("\n").filter((line) => /Fix\?|Clear\?|Salvage\?|Connect to|UNEXPECTED/.test(line));
        expect(repairs.filter((line) => !/^Fix\? yes$/.test(line))).toEqual([]);
        expect(log).not.toMatch(/Inode \d+.*(?:wrong|invalid|corrupt)|Entry .* has/);
        await session.sh(`e2fsck -fn dev/s${round} >/dev/null 2>&1`);
        await session.ok(`detach s${round}`);
      }
      await load;
      await session.ok("umount a");
      await checkPool(session);
    }));

  test("have in snapshots, and while they are suspended, what file systems and page caches had in memory only", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 1g");
      await session.ok("thin create pool raw --size 64m");
      await session.ok("attach a");
      await session.ok("attach raw");
      await session.sh("mkfs.ext4 -q dev/a; head -c 3000000 /dev/urandom > bytes");
      await session.ok(["mount", "a", session.path("mnt")]);
      const snapHas = async (snapshot: string, file: string) => {
        await session.ok(["mount", snapshot, session.path("mnt2")]);
        await session.sh(`cmp bytes mnt2/${file}`);
        await session.ok(`umount ${snapshot}`);
      };
      await session.sh("cp bytes mnt/snapped");
      await session.ok("thin snap a s1");
      await snapHas("s1", "snapped");
      // As dmsetup and Docker do it: suspend, snap, resume.
      await session.sh("cp bytes mnt/suspended");
      await session.ok("table suspend a");
      await session.ok("thin snap a s2");
      await session.ok("table resume a");
      await snapHas("s2", "suspended");
      // In a group too, where its requests wait.
      await session.sh(
        "cp bytes mnt/atomic; printf 'thin snap a s4\\nthin snap none s4 --if-not-exists\\n' | udm batch --atomic",
      );
      await snapHas("s4", "atomic");
      await session.sh("cp bytes mnt/lines; printf 'thin create pool b --size 1m\\nthin snap a s5\\n' | udm batch");
      await snapHas("s5", "lines");
      const plan = await session.sh(
        "cp bytes mnt/planned; printf 'thin snap a x\\nthin delete x\\n' | udm batch --dry-run",
      );
      expect(plan).toContain("create_snap");
      // With its pool suspended it takes no writes, and nobody waits for them.
      await session.sh(
        "echo more > mnt/more; udm table suspend pool; ! timeout 30 udm thin snap a s6 2> said; udm table resume pool",
      );
      expect(readFileSync(session.path("said"), "utf8")).toMatch(/pool 'pool' is suspended/);
      // One who goes away while his group waits for that leaves no group behind, which would stop the device.
      await session.sh(`echo 'thin snap a late' > lines; head -c 400000000 /dev/zero > mnt/zeros
        for after in 0.2 0.3 0.4; do timeout -s KILL $after udm batch --atomic lines > out || true; echo more >> mnt/zeros; done
        rm mnt/zeros; udm thin create pool c --size 1m; sync -f mnt`);
      // Held open, so that it is not written when it is closed.
      await session.sh(`exec 3<> dev/raw; cat bytes >&3; udm thin snap raw s3; udm thin read s3 --length 3000000 | cmp - bytes
        cat bytes >&3; udm table suspend --noflush raw; udm table resume raw`);
      await session.ok("umount a");
      await session.ok("detach raw");
      // What does not fit is no snapshot.
      await session.ok("pool create small --data sdata --metadata smeta --data-size 16m --metadata-size 4m");
      await session.ok("thin create small over --size 64m");
      await session.ok("attach over");
      const over =
        "exec 3<> dev/over; head -c 32000000 bytes bytes bytes bytes bytes bytes bytes bytes bytes bytes bytes >&3";
      await session.sh(`${over}; ! udm thin snap over s7 2> said`);
      expect(readFileSync(session.path("said"), "utf8")).toMatch(
        /^udm: 'over': what is kept in memory could not be written: /,
      );
      await session.ok("detach over");
      await checkPool(session);
    }));

  test("are cut off when their daemon is killed; what was flushed is there, and the rest is cleared up by name", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 256m");
      await session.ok("thin create pool b --size 64m");
      await session.ok("attach a");
      await session.ok("attach b");
      await session.sh(
        "mkfs.ext4 -q dev/a; head -c 1000000 /dev/urandom > flushed; dd if=flushed of=dev/b conv=fsync 2>&1",
      );
      await session.ok(["mount", "a", session.path("mnt")]);
      await session.sh("cp flushed mnt/flushed; sync -f mnt");
      const load = session.sh(
        "fio --name=x --directory=mnt --size=32m --rw=randwrite --bs=4k --fsync=4 --time_based --runtime=30 >/dev/null",
      );
      const failed = load.then(
        () => "fio ended well",
        () => "fio failed",
      );
      await new Promise((resolve) => setTimeout(resolve, 700));
      await session.killDaemon();
      expect(await failed).toBe("fio failed");

      const doctor = await session.udm("doctor --quiet");
      expect(doctor.status).toBe(3);
      expect(doctor.stdout).toContain(`udm umount ${session.path("mnt")}\n`);
      expect(doctor.stdout).toContain("udm detach b\n");
      expect((await session.udm("attach a")).stderr).toMatch(/hint: udm doctor tells how to take it away\n$/);
      // Attaching another one has cleared up what nobody used; then the file system goes, and with it the rest.
      await session.ok(["umount", session.path("mnt")]);
      await session.udm("detach b --if-exists");
      expect((await session.udm("doctor --quiet")).stdout).toBe("nothing is wrong\n");
      expect(listFuseMounts().filter(({ folder }) => folder.startsWith(session.folder))).toEqual([]);
      expect([existsSync(session.dev("a")), existsSync(session.dev("b"))]).toEqual([false, false]);

      await session.ok("attach b");
      await session.sh("cmp -n 1000000 flushed dev/b");
      await session.ok("detach b");
      await session.ok(["mount", "a", session.path("mnt")]);
      await session.sh("cmp flushed mnt/flushed");
      await session.ok("umount a");
      await session.ok("attach a");
      await session.sh("e2fsck -fp dev/a >/dev/null 2>&1 || [ $? = 1 ]");
      await session.ok("detach a");
      await checkPool(session);
    }));

  test("go in order when the daemon is told to end, mounted or not", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 128m");
      await session.ok("attach a");
      await session.sh("mkfs.ext4 -q dev/a");
      await session.ok(["mount", "a", session.path("mnt")]);
      await session.sh("cp /etc/services mnt/");
      await session.ok("daemon stop");
      expect(existsSync(session.dev("a"))).toBe(false);
      expect(readFileSync("/proc/self/mounts", "utf8")).not.toContain(session.folder);
      await session.ok("attach a");
      await session.sh("e2fsck -fn dev/a 2>&1");
      await session.ok(["mount", "a", session.path("mnt")]);
      await session.sh("cmp /etc/services mnt/services");
      await session.ok("umount a");
    }));

  test("whose file system is in use when the daemon is told to end are written back and cut off; doctor mends", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 128m");
      await session.ok("attach a");
      await session.sh("mkfs.ext4 -q dev/a");
      await session.ok(["mount", "a", session.path("mnt")]);
      await session.sh("cp /etc/services mnt/");
      // It stays where it is, and writes on.
      const busy = session.sh(
        "cd mnt; for ((i = 0; i < 3000; i++)); do echo line $i >> log; sleep 0.02; done 2>/dev/null",
      );
      const said = busy.then(
        () => "wrote on",
        () => "got errors",
      );
      await new Promise((resolve) => setTimeout(resolve, 500));
      process.kill(await session.daemonPid(), "SIGTERM");
      expect(await said).toBe("got errors");
      await expect.poll(async () => (await session.udm("daemon status")).status, { timeout: 60_000 }).toBe(1);
      const doctor = await session.udm("doctor --quiet");
      expect(doctor).toMatchObject({
        status: 3,
        stdout: expect.stringContaining(`udm umount ${session.path("mnt")}\n`),
      });
      await session.ok(["umount", session.path("mnt")]);
      expect((await session.udm("doctor --quiet")).stdout).toBe("nothing is wrong\n");
      expect(listFuseMounts().filter(({ folder }) => folder.startsWith(session.folder))).toEqual([]);
      await session.ok(["mount", "a", session.path("mnt")]);
      await session.sh("cmp /etc/services mnt/services; [ $(wc -l < mnt/log) -gt 5 ]");
      await session.ok("umount a");
      await checkPool(session);
    }));

  test("that are suspended hold their I/O, and are not detached until they are resumed", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 32m");
      await session.ok("attach a");
      await session.ok("table suspend a");
      let isWritten = false;
      const write = session.sh("dd if=/etc/services of=dev/a bs=4k count=1 oflag=direct 2>&1").then(() => {
        isWritten = true;
      });
      // Who waits has it open; that it is suspended is said once nobody has.
      expect((await session.udm("detach a")).stderr).toMatch(
        /^udm: 'a' \(\/dev\/loop\d+\) is open in process \d+|is suspended/,
      );
      expect(isWritten).toBe(false);
      await session.ok("table resume a");
      await write;
      await session.sh("cmp -n 4096 /etc/services dev/a");
      await session.ok("detach a");
    }));

  test("follow a new name, refuse writes when read-only, and never touch a link that is not theirs", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 32m");
      await session.ok("attach a");
      await session.sh(
        "head -c 100000 /dev/urandom > bytes; truncate -s 100352 bytes; dd if=bytes of=dev/a conv=fsync 2>&1",
      );
      await session.ok("thin rename a z");
      expect([existsSync(session.dev("a")), existsSync(session.dev("z"))]).toEqual([false, true]);
      await session.sh("cmp -n 100352 bytes dev/z");
      await session.ok("detach z");

      await session.ok("attach z --read-only");
      expect(await session.sh("blockdev --getro dev/z")).toBe("1");
      await expect(session.sh("dd if=/dev/zero of=dev/z bs=4k count=1 oflag=direct")).rejects.toThrow(
        /Read-only|not permitted/,
      );
      await session.sh("cmp -n 100352 bytes dev/z");
      await session.ok("detach z");

      await session.ok("thin create pool b --size 32m");
      symlinkSync("/dev/null", session.dev("b"));
      expect((await session.udm("attach b")).stderr).toMatch(
        /^udm: .*dev\/b is there already: a link to \/dev\/null\nhint: /,
      );
      expect(readlinkSync(session.dev("b"))).toBe("/dev/null");
      await session.sh("rm dev/b");
      writeFileSync(session.dev("b"), "mine");
      expect((await session.udm("attach b")).stderr).toMatch(/is there already: a file/);
      await session.sh("rm dev/b");
      // A link to a loop device that nobody has is what a crash of the machine leaves.
      symlinkSync("/dev/loop4095", session.dev("b"));
      expect((await session.udm("doctor --quiet")).stdout).toContain(`rm ${session.dev("b")}\n`);
      await session.ok("attach b");
      expect(lstatSync(session.dev("b")).isSymbolicLink()).toBe(true);
      // Somebody who has it open keeps it.
      const holder = session.start("sleep", ["30"], {});
      const held = session.sh(`exec 9<dev/b; sleep 2`);
      await new Promise((resolve) => setTimeout(resolve, 300));
      expect((await session.udm("detach b")).stderr).toMatch(/is open in process \d+ \(.*\)\nhint: end process/);
      holder.kill();
      await held;
      await session.ok("detach b");
    }));

  test("with a new name leave the old one to another device; after a kill what is left goes by the new name", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 32m");
      await session.ok("attach a");
      await session.sh("mkfs.ext4 -q dev/a");
      await session.ok(["mount", "a", session.path("mnt")]);
      await session.ok("thin rename a z");
      for (const command of ["umount a", "detach a"]) expect((await session.udm(command)).status).toBe(1);
      await session.sh("echo here > mnt/file; sync -f mnt");

      await session.ok("thin create pool a --size 16m");
      await session.ok("attach a");
      expect(readlinkSync(session.dev("a"))).not.toBe(readlinkSync(session.dev("z")));
      expect(await session.sh("blockdev --getsize64 dev/a")).toBe(String(16 * 2 ** 20));
      await session.ok("detach a");
      expect(await session.sh("cat mnt/file")).toBe("here");

      await session.killDaemon();
      expect((await session.udm("doctor --quiet")).stdout).toMatch(/^wrong: z: /m);
      await session.ok("umount z");
      expect(existsSync(session.dev("z"))).toBe(false);
      await session.ok(["mount", "z", session.path("mnt")]);
      expect(await session.sh("cat mnt/file")).toBe("here");
      await session.ok("umount z");
      await checkPool(session);
    }));

  test("are nothing for their own daemon to stand on: it says so instead of waiting for itself", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 128m");
      await session.ok("thin create pool b --size 32m");
      await session.ok("attach a");
      await session.sh("mkfs.ext4 -q dev/a");
      await session.ok(["mount", "a", session.path("mnt")]);
      await session.sh(
        "ln -s mnt/sub link; mkdir mnt/sub; truncate -s 8m mnt/image; echo 3 > /proc/sys/vm/drop_caches",
      );
      for (const path of ["mnt/image", "link/new", session.path("mnt/sub/../new")]) {
        for (const words of [
          ["loop", "attach", path, "--size", "8m"],
          ["thin", "export", "b", path],
          ["pool", "create", "other", "--data", path, "--metadata", "m2"],
        ]) {
          const ran = await session.udm(words);
          expect({ words, ...ran }).toMatchObject({
            status: 1,
            stderr: expect.stringContaining("which the daemon serves itself"),
          });
        }
      }
      const loop = readlinkSync(session.dev("a"));
      expect((await session.udm(["pool", "create", "other", "--data", loop, "--metadata", "m2"])).status).toBe(1);
      // A stream is the command's own affair.
      await session.sh(`${process.execPath} bin/udm thin export b - > mnt/b.img; sync -f mnt`);
      await session.ok("doctor --quiet");
      await session.ok("umount a");
      await checkPool(session);
    }));

  test.skipIf(existsSync("/dev/nbd0"))("via nbd need a kernel that has it", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 32m");
      expect((await session.udm("attach a --via nbd")).stderr).toBe(
        "udm: /dev/nbd0: this kernel has no NBD\nhint: modprobe nbd; without it: udm attach goes by FUSE\n",
      );
      expect((await session.udm("attach a --via smoke")).status).toBe(2);
      await session.ok("attach a");
      expect((await session.udm("attach a --via nbd --if-not-exists")).stderr).toMatch(/^udm: 'a' is attached at /);
      await session.ok("detach a");
    }),
  );

  test.skipIf(!existsSync("/dev/nbd0"))("via nbd take a file system (needs /dev/nbd0)", () =>
    withAttaching(async (session) => {
      await session.ok("thin create pool a --size 64m");
      await session.ok("attach a --via nbd");
      expect(readlinkSync(session.dev("a"))).toMatch(/^\/dev\/nbd\d+$/);
      await session.sh("mkfs.ext4 -q dev/a");
      await session.ok(["mount", "a", session.path("mnt")]);
      await session.sh("cp /etc/services mnt/");
      expect((await session.udm("detach a")).stderr).toMatch(/is mounted at/);
      await session.ok("umount a");
      await session.ok("attach a --read-only");
      await session.sh("e2fsck -fn dev/a >/dev/null 2>&1");
      await session.ok("detach a");
      await checkPool(session);
    }),
  );
});
