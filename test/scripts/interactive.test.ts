/** What a person sees who sits at a terminal: tmux is the terminal, and its screen is compared. */
import { spawnSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { expect, test } from "vitest";
import { type Session, withSession } from "../cli/session.js";
import { Terminal } from "../support/tmux.js";

const hasTmux = spawnSync("tmux", ["-V"]).error === undefined || process.env.CI === "true";

async function atTerminal(session: Session, command: string, body: (terminal: Terminal) => Promise<void>) {
  const environment = { ...session.environment, LC_ALL: "C.UTF-8" };
  const terminal = Terminal.open(command, { folder: session.folder, environment });
  try {
    await body(terminal);
  } finally {
    terminal.close();
  }
}

/** Types a line at the prompt and waits for the next one. */
async function say(terminal: Terminal, line: string): Promise<string> {
  terminal.enter(line);
  const typed = `udm> ${line}`;
  return terminal.until((screen) => screen.includes(`${typed}\n`) && screen.endsWith("\nudm>"));
}

test.runIf(hasTmux)("an interactive session: prompt, completion, questions, refusals, history, the end", async () => {
  await withSession(async (session) => {
    await atTerminal(session, "env 'PS1=$ ' HISTFILE=/dev/null bash --norc", async (terminal) => {
      await terminal.untilLast("$");
      terminal.enter("udm shell");
      await terminal.untilLast("udm>");
      await say(terminal, "pool create pool1 --data d --metadata m --data-size 1g --metadata-size 16m");
      await say(terminal, "thin create pool1 base --size 64m");

      // Tab: the verb, the device.
      terminal.type("thin sn");
      terminal.press("Tab");
      await terminal.untilLast("udm> thin snap");
      terminal.type("b");
      terminal.press("Tab");
      await terminal.untilLast("udm> thin snap base");
      terminal.enter("day1");
      await terminal.until((screen) => screen.endsWith("thin snap base day1\nudm>"));

      // A question is asked at the same terminal; no is no.
      terminal.enter("thin delete day1");
      await terminal.untilLast("udm: delete thin device 'day1'? [y/N]");
      terminal.enter("n");
      const refused = await terminal.until((screen) => /nothing was changed\nudm>$/.test(screen));
      expect(refused).toContain("udm: delete thin device 'day1': not confirmed\nhint: nothing was changed");

      // Ctrl-C clears the line; nothing of it is run.
      terminal.type("thin delete day1 --yes");
      await terminal.untilLast("udm> thin delete day1 --yes");
      terminal.press("C-c");
      await terminal.until((screen) => screen.endsWith("--yes^C\nudm>"));

      // A line that goes on, and one that fails.
      terminal.enter("thin list -o \\");
      await terminal.untilLast("...>");
      terminal.enter("NAME,ORIGIN");
      const listed = await terminal.until((screen) => /NAME ORIGIN\nbase -\nday1 base\nudm>$/.test(screen));
      expect(listed).toContain("...> NAME,ORIGIN");
      const failed = await say(terminal, "thin snap nope x");
      expect(failed).toMatch(/udm: no thin device 'nope'\nhint: .*\nudm>$/);

      // What is run is remembered, what was cleared is not.
      terminal.press("Up");
      await terminal.untilLast("udm> thin snap nope x");
      terminal.press("Up");
      await terminal.untilLast("udm> thin list -o NAME,ORIGIN");
      terminal.press("C-c");
      await terminal.untilLast("udm>");
      terminal.press("C-d");
      await terminal.untilLast("$");
      terminal.enter("echo ended $?");
      await terminal.until((screen) => screen.includes("\nended 1\n"));
    });
    const history = session.path("state/shell_history");
    expect(readFileSync(history, "utf8")).toBe(
      [
        "pool create pool1 --data d --metadata m --data-size 1g --metadata-size 16m",
        "thin create pool1 base --size 64m",
        "thin snap base day1",
        "thin delete day1",
        "thin list -o NAME,ORIGIN",
        "thin snap nope x",
        "",
      ].join("\n"),
    );
    expect(statSync(history).mode & 0o777).toBe(0o600);
    expect(await session.ok("thin list --no-headings -o NAME")).toBe("base\nday1\n");
  });
});

test.runIf(hasTmux)("the prompt and errors are coloured, a long copy shows its progress", async () => {
  await withSession(async (session) => {
    await session.ok("pool create p --data d --metadata m --data-size 4g --metadata-size 16m");
    await session.ok("thin create p a --size 2g");
    await session.bash("head -c 64M /dev/urandom > image");
    await atTerminal(session, "udm shell", async (terminal) => {
      await terminal.untilLast("udm>");
      terminal.enter("thin info");
      const coloured = await terminal.until(
        (screen) => screen.includes("unknown command 'info'") && screen.split("\n").at(-1)!.includes("udm>"),
        { colours: true },
      );
      expect(coloured).toContain("\u001b[32mudm>");
      expect(coloured).toContain("\u001b[31mudm:");
      const written = session.path("written");
      terminal.record(written);
      terminal.enter("thin import a image");
      await terminal.until((screen) => screen.endsWith("thin import a image\nudm>"));
      // Drawn while it ran, and taken off the screen.
      await expect
        .poll(() => readFileSync(written, "utf8"), { timeout: 60_000 })
        .toMatch(/import a \[█+\] 100% 64M\/64M /);
      expect(terminal.screen()).not.toContain("import a [");
    });
  });
});

test("without a terminal the shell runs the lines it is given, and goes on after those that fail", async () => {
  await withSession(async (session) => {
    const input = [
      "pool create p --data d --metadata m --data-size 1g --metadata-size 16m",
      "thin create p a --size 64m",
      "thin snap nope b",
      "thin snap a b # a comment",
      "shell",
      "exit",
      "thin snap a c",
    ].join("\n");
    const ran = await session.udm("shell", { input });
    expect(ran.status).toBe(1);
    expect(ran.stderr).toMatch(
      /^udm: line 3: no thin device 'nope'\nhint: .*\nudm: line 5: shell: not inside udm .*\nhint: .*\n$/,
    );
    expect(await session.ok("thin list --no-headings -o NAME")).toBe("a\nb\n");
  });
});
