/** Walking over metadata with the keys, on a real terminal. */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { expect, test, vi } from "vitest";
import { readGoldenRun } from "../support/golden-images.js";
import { MetadataImage } from "../support/metadata-image.js";
import { Terminal } from "../support/tmux.js";
import { finished, type Session, THROUGH_DAEMON, withSession } from "./session.js";

const hasTmux = spawnSync("tmux", ["-V"]).error === undefined || process.env.CI === "true";
const POOL = readGoldenRun("kernel-random/run.json.br").run.checkpoints.at(-1)!.metadata;
const image = new MetadataImage(POOL);
const DEVICES = image.u64(0, 320);

interface Size {
  readonly columns?: number;
  readonly rows?: number;
}

/** In a shell, so that what comes back behind it is seen. */
async function exploring(
  options: Size & { readonly environment?: Record<string, string>; readonly metadata?: Uint8Array },
  body: (terminal: Terminal, session: Session) => Promise<void>,
): Promise<void> {
  await withSession(async (session) => {
    writeFileSync(session.path("meta.img"), options.metadata ?? POOL);
    const environment = { ...session.environment, LC_ALL: "C.UTF-8", ...options.environment };
    const size = { columns: options.columns ?? 100, rows: options.rows ?? 30 };
    const terminal = Terminal.open("env 'PS1=$ ' HISTFILE=/dev/null bash --norc", {
      folder: session.folder,
      environment,
      ...size,
    });
    try {
      await terminal.untilLast("$");
      terminal.enter("udm metadata explore meta.img; echo ended $?");
      await body(terminal, session);
    } finally {
      terminal.close();
    }
  });
}

const first = (screen: string) => screen.split("\n")[0]!.trimEnd();
const last = (screen: string) => screen.split("\n").at(-1)!.trimEnd();
const chosen = (screen: string) => screen.split("\n").find((line) => line.startsWith(">"));

test.runIf(hasTmux)("arrows, enter, back, a jump, the end", async () => {
  await exploring({}, async (terminal) => {
    const opened = await terminal.until((screen) => first(screen) === "block 0: superblock");
    expect(last(opened)).toMatch(
      /^1\/25 {2}arrows move, Enter follows ->, Backspace back, \/ BLOCK, x bytes, q quits$/,
    );
    expect(chosen(opened)).toMatch(/^> csum /);

    // Down to the root of the tree of devices, into it, to the mappings of the first device.
    for (let line = 0; line < 30; line++) terminal.press("Down");
    await terminal.until((screen) => /^> incompatFlags/.test(chosen(screen) ?? ""));
    terminal.press("Enter");
    await terminal.untilLast("this line leads nowhere");
    terminal.press("Home", "PageUp", "End");
    for (let line = 0; line < 7; line++) terminal.press("Up");
    await terminal.until((screen) => /^> dataMappingRoot/.test(chosen(screen) ?? ""));
    terminal.press("Enter");
    await terminal.until((screen) => first(screen).includes(`(path 0 > ${DEVICES})`));
    terminal.type("jjjjjj");
    await terminal.until((screen) => chosen(screen)?.includes("-> root") === true);
    terminal.press("Right");
    const leaf = await terminal.until((screen) => /mappings of device \d+/.test(first(screen)));
    expect(first(leaf)).toMatch(new RegExp(`^block \\d+: .*\\(path 0 > ${DEVICES} > \\d+\\)$`));

    // Back to where the eye was.
    terminal.press("BSpace");
    await terminal.until((screen) => chosen(screen)?.includes("-> root") === true);
    terminal.press("Left");
    await terminal.until((screen) => /^> dataMappingRoot/.test(chosen(screen) ?? ""));
    terminal.press("Left");
    await terminal.untilLast("this is where it began");

    // A jump, with and without the word; what is none is said.
    terminal.type(`/${DEVICES}`);
    await terminal.untilLast(`/${DEVICES}`);
    terminal.press("Enter");
    await terminal.until((screen) => first(screen).startsWith(`block ${DEVICES}: leaf`));
    terminal.enter("/goto 0");
    await terminal.until((screen) => first(screen).startsWith("block 0: superblock"));
    terminal.enter("/nowhere");
    await terminal.untilLast("'nowhere' is no number of a block");
    terminal.enter("/999999");
    await terminal.until((screen) => /^no block 999999, there are \d+$/.test(last(screen)));
    terminal.type("/12");
    terminal.press("Escape");
    await terminal.until((screen) => last(screen).includes("q quits"));

    // Bytes.
    terminal.type("x");
    await terminal.until((screen) => /^> 0000 {2}([0-9a-f]{2} ){16} /.test(chosen(screen) ?? ""));
    terminal.type("x");
    await terminal.until((screen) => /^> csum/.test(chosen(screen) ?? ""));

    // The terminal is as it was.
    terminal.type("q");
    const after = await terminal.until((screen) => screen.endsWith("ended 0\n$"));
    expect(after).toBe("$ udm metadata explore meta.img; echo ended $?\nended 0\n$");
    terminal.enter("stty -a | grep -wo -- -icanon; echo typed");
    await terminal.until((screen) => screen.endsWith("echo typed\ntyped\n$"));
  });
});

test.runIf(hasTmux)("a narrow terminal, and one that changes its size", async () => {
  await exploring({ columns: 40, rows: 10 }, async (terminal) => {
    const narrow = await terminal.until((screen) => first(screen) === "block 0: superblock");
    expect(narrow.split("\n")).toHaveLength(10);
    expect(last(narrow)).toBe("1/25  Enter Backspace / x q");
    expect(narrow.split("\n").every((line) => line.length <= 40)).toBe(true);
    terminal.press("End");
    await terminal.until((screen) => /^> incompatFlags/.test(chosen(screen) ?? "") && screen.split("\n").length === 10);
    terminal.resize({ columns: 90, rows: 40 });
    await terminal.until((screen) => last(screen).endsWith("q quits") && screen.includes("\n  csum "));
    terminal.resize({ columns: 20, rows: 3 });
    const tiny = await terminal.until((screen) => screen.split("\n").length <= 3 && chosen(screen) !== undefined);
    expect(chosen(tiny)).toBe("> incompatFlags  ...");
    terminal.type("q");
    await terminal.until((screen) => screen.includes("ended 0"));
  });
});

test.runIf(hasTmux)("damage is shown in colour, and without any where NO_COLOR is set", async () => {
  const metadata = Buffer.from(POOL);
  metadata[300]! ^= 1;
  await exploring({ metadata }, async (terminal) => {
    const seen = await terminal.until((screen) => screen.includes("damaged: checksum 0x"), { colours: true });
    expect(seen).toContain("\u001b[31mdamaged: checksum");
    expect(seen.split("\n").find((line) => line.includes("> csum"))).toContain("\u001b[7m");
  });
  await exploring({ metadata, environment: { NO_COLOR: "1" } }, async (terminal) => {
    const seen = await terminal.until((screen) => screen.includes("damaged: checksum 0x"), { colours: true });
    expect(seen).not.toContain("\u001b[");
    // Ctrl-C ends it as a shell expects.
    terminal.press("C-c");
    await terminal.until((screen) => screen.endsWith("ended 130\n$"));
  });
});

test("where there is no terminal the first block is printed", async () => {
  await withSession(async (session) => {
    writeFileSync(session.path("meta.img"), POOL);
    expect(await session.ok("metadata explore meta.img")).toMatch(/^block 0: superblock\n {2}csum /);
  });
});

test.skipIf(THROUGH_DAEMON)(
  "a pool that the daemon has in use is explored, counted and packed, and not trimmed",
  async () => {
    await withSession(async (session) => {
      await session.ok("pool create p --data d --metadata m --data-size 64m --metadata-size 8m");
      await session.ok("thin create p a --size 16m");
      await session.udm("thin write a", { input: Buffer.alloc(2 ** 20, 1) });
      await session.ok("daemon start");
      const writer = session.start("udm", ["thin", "write", "a", "--offset", "1m"]);
      const ended = finished(writer);
      try {
        // The daemon keeps the pool open for as long as the writer is there.
        writer.stdin!.write(Buffer.alloc(2 ** 20, 2));
        await vi.waitFor(
          async () =>
            expect(await session.ok("metadata explore p")).toMatch(/^block \d+: superblock, metadata snapshot\n/),
          { timeout: 60_000 },
        );
        expect(await session.ok("metadata stat p")).toMatch(/\n1 device\n/);
        const packed = await session.udm("metadata pack -i p -o p.pack");
        expect(packed.stderr).toMatch(/it is in use; only the metadata snapshot in it is of one moment/);
        expect(packed.status).toBe(0);
        await session.ok("metadata unpack -i p.pack -o copy.img");
        expect(await session.ok("metadata ls --no-headers -m copy.img -o DEV,MAPPED_BLOCKS")).toMatch(
          /^ *\d+ +\d+ *\n$/,
        );
        const trim = await session.udm("metadata trim -y --metadata-dev p --data-dev p");
        expect(trim).toMatchObject({ status: 1, stdout: "" });
        expect(trim.stderr).toMatch(/\nhint: only a pool that nobody uses is trimmed/);
      } finally {
        writer.stdin!.end();
        expect((await ended).status).toBe(0);
        await session.ok("daemon stop");
      }
    });
  },
);
