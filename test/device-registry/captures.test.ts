import { describe, expect, test } from "vitest";
import { readCaptures } from "./captures.js";
import { TestDmsetup } from "./dmsetup.js";
import { TestMachine } from "./machine.js";

const FOLDER = new URL("../golden/captures/", import.meta.url);

/** Transaction ids above 2^53 are refused by design; the capture goes there and back. */
const BEYOND_US: Readonly<Record<string, string>> = {
  "dmsetup message pool 0 set_transaction_id 2 18446744073709551615": "dmsetup message pool 0 set_transaction_id 2 2",
  "dmsetup message pool 0 set_transaction_id 18446744073709551615 3": "dmsetup message pool 0 set_transaction_id 2 3",
};

/** A bare name means a mapped device to us, so that this one names the device itself: refused too, in other words. */
const OTHER_WORDS = 'dmsetup create x --table "0 8 linear x 0"';

describe("a replayed capture prints, logs and returns what dmsetup and the kernel did", () => {
  test.each(["06-table-parse-errors.txt", "27-load-checks.txt"])("%s", async (file) => {
    const machine = new TestMachine();
    const dmsetup = new TestDmsetup(machine);
    for (const capture of readCaptures(new URL(file, FOLDER))) {
      const { command } = capture;
      if (command === OTHER_WORDS) continue;
      if (capture.kind === "setup") {
        for (const part of command.split(/;\s*/)) {
          if (part.startsWith("mount ")) machine.mounted.add("vdb");
          else if (part.startsWith("umount ")) machine.mounted.clear();
          else if (part.startsWith("dmsetup ")) await dmsetup.run(part);
        }
        continue;
      }
      // From here on the capture maps a device onto itself, which we refuse.
      if (command === 'dmsetup load a --table "0 8 linear /dev/mapper/a 0"') {
        expect((await dmsetup.run(command)).stderr[0]).toBe(
          "device-mapper: reload ioctl on a  failed: Invalid argument",
        );
        break;
      }
      const { stdout, stderr, log, status } = await dmsetup.run(command);
      expect({ command, stdout, stderr, log, status }).toEqual({
        command,
        stdout: capture.stdout,
        stderr: capture.stderr,
        log: capture.log,
        status: capture.status,
      });
    }
  });

  test.each(["22-thin-pool-features.txt", "23-thin-messages.txt"])("%s: output and status", async (file) => {
    const machine = new TestMachine();
    const dmsetup = new TestDmsetup(machine);
    for (const capture of readCaptures(new URL(file, FOLDER))) {
      const { command } = capture;
      if (command.startsWith("dd ")) {
        await machine.overwrite(/of=\/dev\/(\w+)/.exec(command)![1]!, command.includes("urandom") ? 0xa5 : 0);
        continue;
      }
      if (command === "dmsetup status pool" && capture.stdout[0]?.includes("18446744073709551615")) continue;
      if (!command.startsWith("dmsetup ")) throw new Error(`the test cannot run: ${command}`);
      const parts = capture.kind === "setup" ? command.split(/;\s*/) : [command];
      for (const part of parts) {
        const { stdout, stderr, status } = await dmsetup.run(BEYOND_US[part] ?? part);
        if (capture.kind === "setup") continue;
        expect({ command, stdout, stderr, status }).toEqual({
          command,
          stdout: capture.stdout,
          stderr: capture.stderr,
          status: capture.status,
        });
      }
    }
  });

  /** Commands of other programs, or forms that the registry does not print. */
  const NOT_OURS = /^(blockdev|dmsetup (info [^-]|ls --tree|deps))|of=\/dev\/mapper\/pool/;

  test.each(["21-thin-lifecycle.txt", "24-thin-out-of-space.txt"])(
    "%s: what I/O does to status and events",
    async (file) => {
      const machine = new TestMachine();
      const dmsetup = new TestDmsetup(machine);
      for (const capture of readCaptures(new URL(file, FOLDER))) {
        const { command } = capture;
        if (command.includes("of=/dev/vd")) {
          await machine.overwrite(/of=\/dev\/(\w+)/.exec(command)![1]!, 0);
          continue;
        }
        if (NOT_OURS.test(command)) continue;
        for (const part of capture.kind === "setup" ? command.split(/;\s*/) : [command]) {
          const { stdout, status } = await dmsetup.run(part);
          if (capture.kind === "setup" || part.startsWith("dd ")) continue;
          // Which block holds the metadata snapshot depends on how often the kernel happened to commit before.
          const shown = (lines: readonly string[]) =>
            lines.map((line) => line.replace(/(thin-pool \d+ \S+ \S+) \d+ /, "$1 HELD "));
          expect({ command, stdout: shown(stdout), status }).toEqual({
            command,
            stdout: shown(capture.stdout),
            status: capture.status,
          });
        }
      }
    },
  );

  test("28-targets-basic.txt, of the targets there are", async () => {
    const dmsetup = new TestDmsetup(new TestMachine());
    let replayed = 0;
    for (const capture of readCaptures(new URL("28-targets-basic.txt", FOLDER))) {
      const { command } = capture;
      if (!/^dmsetup (create x --table "\d+ \d+ (linear|striped|zero|error)|table x|status x|remove x)/.test(command))
        break;
      const { stdout, status } = await dmsetup.run(command);
      if (capture.kind === "setup") continue;
      expect({ command, stdout, status }).toEqual({ command, stdout: capture.stdout, status: capture.status });
      replayed++;
    }
    expect(replayed).toBeGreaterThan(20);
  });
});
