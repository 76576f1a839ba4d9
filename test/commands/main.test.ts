import { readFileSync } from "node:fs";
import { Writable } from "node:stream";
import { describe, expect, test } from "vitest";
import { COMMANDS, Context, FAMILIES, stateDirectories } from "../../src/commands/index.js";
import { DamageError, InvariantError, StateError } from "../../src/errors/index.js";
import type { Host, LoopInfo } from "../../src/host/index.js";
import { answeringHost, runMain } from "./run-main.js";

const LOOP: LoopInfo = {
  number: 3,
  dev: "7:3",
  file: "/tmp/a",
  offsetBytes: 0,
  sizeLimitBytes: 0,
  sizeBytes: 1048576,
  readOnly: false,
  sectorBytes: 512,
  usedBy: ["pool"],
};

describe("wrong usage is one line, a hint and status 2", () => {
  test.each([
    ["lop attach x", "unknown command 'lop'", "did you mean udm loop?"],
    ["frobnicate", "unknown command 'frobnicate'", "udm --help lists the commands"],
    ["pool crate x", "unknown command 'crate'", "did you mean udm pool create?"],
    [
      "pool",
      "pool: a command is missing",
      "one of create resize status list set check map message remove; see udm pool --help",
    ],
    ["--quiet", "a command is missing", "udm --help lists the commands"],
    ["pool list --jsn", "pool list: unknown option '--jsn'", "did you mean --json? see udm pool list --help"],
    ["thin rename p", "thin rename: missing required argument 'new'", "see udm thin rename --help"],
    ["thin create p n", "thin create: required option '--size <size>' not specified", "see udm thin create --help"],
    ["pool list extra", "pool list: too many arguments. Expected 0 arguments but got 1", "see udm pool list --help"],
    [
      "thin create p n --size 12q",
      "size '12q' is not a size",
      "a number with s (512-byte sectors), b, k, m, g, t, p or e, such as 128m or 10g; without a unit it is bytes",
    ],
    ["thin create p n --size 0", "size is 0", "give a size such as 128m or 10g"],
    ["thin create p n --size 1g --id 16777216", "device id 16777216 is out of range", "a number from 0 to 16777215"],
    ["thin create p n --size 1g --id x", "device id 'x' is not a whole number", "a number from 0 to 16777215"],
    [
      "pool create p --data d",
      "pool create: both --data and --metadata are needed",
      "one device for both is --device DEV",
    ],
    [
      "pool create p",
      "pool create: say what to make the pool from, in one way",
      "--data DEV --metadata DEV, or --table TABLE, or --device DEV",
    ],
    ["pool resize p", "pool resize: a size is missing", "such as 20g, +10g or +20%, or --metadata-size SIZE"],
    ["pool list --units x", "unit 'x' is unknown", "one of h b s k m g t p e, or K M G T P E"],
    ["pool list --lock-timeout x", "'x' is not a number of seconds", "such as 30"],
    ["loop detach", "loop detach: name the devices, or give --all", "udm loop list shows them"],
    ["--state-dir", "option '--state-dir' needs a value", "see udm --help"],
  ])("udm %s", async (line, message, hint) => {
    const ran = await runMain(line.split(" "));
    expect(ran).toEqual({ status: 2, stdout: "", stderr: `udm: ${message}\nhint: ${hint}\n` });
  });

  test("udm alone shows the commands on standard error", async () => {
    const ran = await runMain([]);
    expect(ran).toMatchObject({ status: 2, stdout: "" });
    expect(ran.stderr).toContain("thin snap");
  });
});

describe("help and version go to standard output", () => {
  test("--version is the package's", async () => {
    const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
    expect(await runMain(["--version"])).toEqual({ status: 0, stdout: `udm ${version}\n`, stderr: "" });
  });

  test.each([
    ["--help"],
    ["help"],
    ["pool --help"],
    ["help pool"],
    ["pool create --help"],
    ["help pool create"],
    ["--help pool create"],
    ["lsblk -h"],
  ])("udm %s", async (line) => {
    const ran = await runMain(line.split(" "));
    expect(ran).toMatchObject({ status: 0, stderr: "" });
    expect(ran.stdout).toMatch(/^Usage: udm/);
  });

  test("every command has a summary, a description and all global options", async () => {
    const streams = { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr };
    for (const entry of COMMANDS) {
      const command = (await entry.load())(new Context({ streams, environment: {}, isRoot: false }));
      expect(command.name()).toBe(entry.name);
      expect(command.description(), entry.name).toMatch(/\.$/);
      expect(entry.summary.length).toBeGreaterThan(3);
      const words = entry.family === undefined ? [entry.name] : [entry.family, entry.name];
      const { stdout } = await runMain([...words, "--help"]);
      for (const option of ["--json", "--dry-run", "--yes", "--state-dir"]) expect(stdout).toContain(option);
    }
    expect(new Set(COMMANDS.map((entry) => entry.family)).size).toBe(FAMILIES.length + 1);
  });
});

describe("failures", () => {
  const failing = (error: unknown) =>
    answeringHost({
      listLoops: async () => {
        throw error;
      },
    });

  test.each([
    [new StateError("EBUSY", "pool: in use", { hint: "stop it" }), 1, "udm: pool: in use\nhint: stop it\n"],
    [new DamageError("metadata block 7: checksum"), 1, "udm: metadata block 7: checksum\n"],
    [
      Object.assign(new Error("EACCES: permission denied, open '/x'"), { code: "EACCES" }),
      1,
      "udm: EACCES: permission denied, open '/x'\nhint: check who may read and write it; block devices mostly need root\n",
    ],
  ])("%s", async (error, status, stderr) => {
    expect(await runMain(["loop", "list"], { openHost: failing(error) })).toEqual({ status, stdout: "", stderr });
  });

  test.each([[new InvariantError("two roots")], [new TypeError("x is not a function\n    at stack")]])(
    "a mistake of ours is 70, without a stack trace",
    async (error) => {
      const ran = await runMain(["loop", "list"], { openHost: failing(error) });
      expect(ran.status).toBe(70);
      expect(ran.stderr).toMatch(/^udm: internal error: .*\nhint: this is a bug in udm.*\n$/);
    },
  );

  test("with --json a failure is a document on standard error", async () => {
    const error = new StateError("EBUSY", "pool: in use", { hint: "stop it" });
    for (const line of ["--json loop list", "loop list --json", "loop --json list"]) {
      const ran = await runMain(line.split(" "), { openHost: failing(error) });
      expect(ran).toMatchObject({ status: 1, stdout: "" });
      expect(JSON.parse(ran.stderr)).toEqual({ error: { code: "EBUSY", message: "pool: in use", hint: "stop it" } });
    }
    const usage = await runMain(["--json", "nosuch"]);
    expect(usage.status).toBe(2);
    expect(JSON.parse(usage.stderr).error.code).toBe("EUSAGE");
  });

  test("a failure to close is a failure", async () => {
    const openHost = answeringHost({
      listLoops: async () => [],
      close: async () => {
        throw new StateError("EIO", "state: not written");
      },
    });
    expect(await runMain(["loop", "list"], { openHost })).toEqual({
      status: 1,
      stdout: "",
      stderr: "udm: state: not written\nhint: the system's log may tell more about the device below\n",
    });
  });
});

describe("endings", () => {
  test("an interrupt ends a command with 130, closes the host and prints nothing", async () => {
    const interrupt = new AbortController();
    let isClosed = false;
    const openHost = answeringHost({
      listLoops: () => {
        setImmediate(() => interrupt.abort());
        return new Promise(() => undefined);
      },
      close: async () => {
        isClosed = true;
      },
    });
    const ran = await runMain(["loop", "list"], { openHost, interrupt: interrupt.signal });
    expect(ran).toEqual({ status: 130, stdout: "", stderr: "" });
    expect(isClosed).toBe(true);
  });

  test("a reader that goes away ends what is written to it, quietly", async () => {
    const stdout = new Writable({
      write(_chunk, _encoding, done) {
        done(Object.assign(new Error("write EPIPE"), { code: "EPIPE" }));
      },
    });
    stdout.on("error", () => undefined);
    const openHost = answeringHost({
      readDevice: (_, out) => {
        out.write("bytes");
        return new Promise(() => undefined);
      },
    });
    const ran = await runMain(["thin", "read", "a"], { openHost, stdout });
    expect(ran).toEqual({ status: 0, stdout: "", stderr: "" });
  });
});

describe("reports", () => {
  const openHost = answeringHost({ listLoops: async () => [{ ...LOOP, number: 10, usedBy: [] }, LOOP] });

  test("have the columns of losetup -l and their own", async () => {
    const { stdout } = await runMain(["loop", "list"], { openHost });
    expect(stdout.split("\n")).toEqual([
      "NAME   SIZELIMIT OFFSET AUTOCLEAR RO BACK-FILE DIO LOG-SEC USED-BY",
      "loop10         0      0         0  0 /tmp/a      0     512 -",
      "loop3          0      0         0  0 /tmp/a      0     512 pool",
      "",
    ]);
  });

  test.each([
    ["--output name,size", "NAME   SIZE\nloop10   1M\nloop3    1M\n"],
    ["-o NAME,SIZE --units s --no-headings", "loop10 2048s\nloop3  2048s\n"],
    ["--sort name -o NAME,OFFSET", "NAME   OFFSET\nloop10      0\nloop3       0\n"],
    ["--sort -name -o NAME,OFFSET", "NAME   OFFSET\nloop3       0\nloop10      0\n"],
  ])("%s", async (options, stdout) => {
    const words = options.split(" ");
    for (const line of [
      ["loop", "list", ...words],
      [...words, "loop", "list"],
      ["loop", ...words, "list"],
    ]) {
      expect(await runMain(line, { openHost })).toEqual({ status: 0, stdout, stderr: "" });
    }
  });

  test("+COL adds to the usual columns", async () => {
    const { stdout } = await runMain(["loop", "list", "-o+size", "--units=b"], { openHost });
    expect(stdout).toMatch(/USED-BY +SIZE\n/);
    expect(stdout).toMatch(/pool +1048576\n/);
  });

  test("--json has every column, sizes in bytes; with -o only those named", async () => {
    const all = await runMain(["loop", "list", "--json"], { openHost });
    expect(JSON.parse(all.stdout).loops[1]).toMatchObject({ name: "loop3", size: 1048576, usedBy: ["pool"] });
    const some = await runMain(["loop", "list", "--json", "-o", "name"], { openHost });
    expect(JSON.parse(some.stdout)).toEqual({ version: 1, loops: [{ name: "loop10" }, { name: "loop3" }] });
  });

  test("without rows nothing is printed; in JSON it is an empty list", async () => {
    const none = answeringHost({ listLoops: async () => [] });
    expect((await runMain(["loop", "list"], { openHost: none })).stdout).toBe("");
    expect(JSON.parse((await runMain(["loop", "list", "--json"], { openHost: none })).stdout)).toEqual({
      version: 1,
      loops: [],
    });
  });
});

describe("options for columns", () => {
  test.each([
    ["thin create pool a --size 1m -o NAME", "thin create: prints no columns, --output has no meaning"],
    ["pool map pool --sort SIZE", "pool map: prints no columns, --sort has no meaning"],
    ["table show --sort NAME", "table show: prints no columns, --sort has no meaning"],
    ["status -o NAME", "status: prints no columns, --output has no meaning"],
    ["pool status --raw -o NAME", "pool status: --raw has no columns"],
  ])("are refused where there are none: %s", async (line, message) => {
    const ran = await runMain(line.split(" "), { openHost: answeringHost({ listPools: async () => [] }) });
    expect(ran).toMatchObject({ status: 2, stdout: "" });
    expect(ran.stderr.split("\n")[0]).toBe(`udm: ${message}`);
  });

  test("a command's own option of the same letter is its own", async () => {
    const asked: unknown[] = [];
    const openHost = answeringHost({
      attachLoop: async (request) => {
        asked.push(request);
        throw new StateError("EBUSY", "enough");
      },
    });
    await runMain(["loop", "attach", "f", "-o", "4k"], { openHost });
    expect(asked).toEqual([{ file: "f", offsetBytes: 4096 }]);
  });
});

describe("changes", () => {
  const planOf = (plan: Partial<Host["plan"]>) => plan as Host["plan"];

  test("--dry-run prints the plan and does nothing else", async () => {
    const openHost = answeringHost({
      plan: planOf({ createThin: async () => ["dmsetup message pool 0 'create_thin 0'"] }),
    });
    const words = ["thin", "create", "pool", "a", "--size", "1g"];
    expect((await runMain(["--dry-run", ...words], { openHost })).stdout).toBe(
      "dmsetup message pool 0 'create_thin 0'\n",
    );
    expect(JSON.parse((await runMain([...words, "--dry-run", "--json"], { openHost })).stdout)).toEqual({
      version: 1,
      plan: ["dmsetup message pool 0 'create_thin 0'"],
    });
  });

  test("what destroys data is refused in a script, and the flag is named", async () => {
    const deleted: string[] = [];
    const openHost = answeringHost({
      plan: planOf({ deleteThin: async (name) => [`dmsetup remove ${name}`] }),
      deleteThin: async (name) => void deleted.push(name),
    });
    const ran = await runMain(["thin", "delete", "a", "b"], { openHost });
    expect(ran).toEqual({
      status: 1,
      stdout: "",
      stderr:
        "udm: delete thin devices 'a', 'b': refused without confirmation\n" +
        "hint: this destroys data; add --yes to do it without being asked\n",
    });
    expect(deleted).toEqual([]);
    expect((await runMain(["-y", "thin", "delete", "a", "b"], { openHost })).status).toBe(0);
    expect(deleted).toEqual(["a", "b"]);
  });

  test("an unknown victim is reported as that, not asked about", async () => {
    const missing = async (_name: string, how?: { readonly ifExists?: boolean }) => {
      if (how?.ifExists === true) return [];
      throw new StateError("ENOENT", "nosuch: no such thin device");
    };
    const openHost = answeringHost({ plan: planOf({ deleteThin: missing }), deleteThin: async () => undefined });
    expect((await runMain(["thin", "delete", "nosuch"], { openHost })).stderr).toBe(
      "udm: nosuch: no such thin device\nhint: check the path; a relative one starts at the present directory\n",
    );
    expect((await runMain(["thin", "delete", "nosuch", "--if-exists"], { openHost })).status).toBe(0);
  });

  test("options reach the host as plain values, those not given not at all", async () => {
    const asked: unknown[] = [];
    const openHost = answeringHost({
      createPool: async (request) => {
        asked.push(request);
        return { name: request.name, formatted: true, thinIds: [] };
      },
    });
    const words = "pool create p --data d --metadata m --block-size 128k --low-water 20% --no-discard-passdown";
    expect((await runMain(words.split(" "), { openHost })).status).toBe(0);
    expect(asked).toEqual([
      {
        name: "p",
        source: { kind: "devices", data: "d", metadata: "m" },
        blockBytes: 131072,
        lowWater: { kind: "percent", percent: 20 },
        features: {
          skipBlockZeroing: false,
          ignoreDiscard: false,
          noDiscardPassdown: true,
          readOnly: false,
          errorIfNoSpace: true,
        },
      },
    ]);
  });

  test("--read-only before a snapshot's name is the command's own -r where it has one", async () => {
    const openHost = answeringHost({ attachLoop: async (request) => ({ ...LOOP, ...request }) });
    const ran = await runMain(["loop", "attach", "f", "-o", "4k", "-r", "--json"], { openHost });
    expect(JSON.parse(ran.stdout).loop).toMatchObject({ offsetBytes: 4096, readOnly: true });
  });
});

describe("state directories", () => {
  test.each([
    [{ HOME: "/h" }, false, undefined, "/h/.local/state/udm", "/h/.local/state/udm/run"],
    [{ HOME: "/h", XDG_STATE_HOME: "/s", XDG_RUNTIME_DIR: "/r" }, false, undefined, "/s/udm", "/r/udm"],
    [{ HOME: "/h", XDG_STATE_HOME: "relative" }, false, undefined, "/h/.local/state/udm", "/h/.local/state/udm/run"],
    [{ HOME: "/root" }, true, undefined, "/var/lib/udm", "/run/udm"],
    [{ UDM_STATE_DIR: "/a", UDM_RUN_DIR: "/b" }, true, undefined, "/a", "/b"],
    [{ UDM_STATE_DIR: "/a" }, true, "/c", "/c", "/run/udm"],
  ])("%j root %s option %s", (environment, isRoot, option, stateDir, runDir) => {
    expect(stateDirectories(environment, isRoot, option)).toEqual({ stateDir, runDir });
  });
});
