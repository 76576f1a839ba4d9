/** The scripts in the shells they are for: what a press of Tab offers. */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { Terminal } from "../support/tmux.js";
import { type Session, withSession } from "./session.js";

/** In CI nothing is skipped: a missing shell is a failure there. */
const has = (program: string, argument = "--version") =>
  spawnSync(program, [argument]).error === undefined || process.env.CI === "true";

interface Case {
  readonly line: string;
  /** Exactly these. */
  readonly offers: readonly string[];
}

const THINS = ["base", "base-day1"];
const CASES: readonly Case[] = [
  { line: "udm thin ro", offers: ["rollback"] },
  { line: "udm comp", offers: ["completion"] },
  { line: "udm thin snap ", offers: THINS },
  { line: "udm thin snap base-", offers: ["base-day1"] },
  { line: "udm thin delete base b", offers: THINS },
  { line: "udm thin rollback base b", offers: THINS },
  { line: "udm -q --sort NAME thin rollback base b", offers: THINS },
  { line: "udm thin snap base ", offers: [] },
  { line: "udm thin snap --size ", offers: [] },
  { line: "udm thin snap --siz", offers: ["--size"] },
  { line: "udm pool status p", offers: ["pool1"] },
  { line: "udm table show ", offers: [...THINS, "pool1"] },
  { line: "udm loop detach 7:", offers: ["7:0", "7:1"] },
  { line: "udm table show --target thin", offers: ["thin", "thin-pool"] },
  { line: "udm pool message pool1 create_", offers: ["create_snap", "create_thin"] },
  { line: "udm completion ", offers: ["bash", "fish", "zsh"] },
  { line: "udm thin import base ima", offers: ["image.raw"] },
  { line: "udm --state-dir sta", offers: ["state"] },
  { line: "udm --no-h", offers: ["--no-headings"] },
];

async function prepare(session: Session): Promise<void> {
  await session.ok("pool create pool1 --data d --metadata m --data-size 1g --metadata-size 16m");
  await session.ok("thin create pool1 base --size 64m");
  await session.ok("thin snap base base-day1");
  writeFileSync(session.path("image.raw"), "");
  for (const shell of ["bash", "zsh", "fish"]) {
    writeFileSync(session.path(`udm.${shell}`), await session.ok(["completion", shell]));
  }
}

const sorted = (text: string) =>
  text
    .split("\n")
    .map((line) => line.split("\t")[0]!.trim().replace(/\/$/, ""))
    .filter((word) => word !== "")
    .sort();

test("bash offers what fits", async () => {
  await withSession(async (session) => {
    await prepare(session);
    // What bash itself sets when Tab is pressed; it replaces only what stands behind the last colon or equal sign.
    const script = [
      "source udm.bash",
      "compopt() { :; }",
      "COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'",
      "COMP_LINE=$1 COMP_POINT=$" + "{#1}",
      "_udm udm",
      'printf "%s\\n" "$' + '{COMPREPLY[@]}"',
    ].join("\n");
    for (const { line, offers } of CASES) {
      const ran = await session.run("bash", ["-c", script, "bash", line]);
      expect({ line, ...ran, stdout: sorted(ran.stdout) }).toEqual({
        line,
        status: 0,
        stderr: "",
        stdout: offers.map((each) => each.slice(each.indexOf(":") + 1)),
      });
    }
    const unit = await session.run("bash", ["-c", script, "bash", "udm pool list --units="]);
    expect(sorted(unit.stdout)).toContain("K");
  });
});

test.runIf(has("fish"))("fish offers what fits", async () => {
  await withSession(async (session) => {
    await prepare(session);
    for (const { line, offers } of CASES) {
      const ran = await session.run("fish", ["--no-config", "-c", `source udm.fish; complete -C '${line}'`]);
      expect({ line, ...ran, stdout: sorted(ran.stdout) }).toEqual({ line, status: 0, stderr: "", stdout: offers });
    }
  });
});

test.runIf(has("zsh") && has("tmux", "-V"))("zsh offers what fits", async () => {
  await withSession(async (session) => {
    await prepare(session);
    // Tab as in a terminal, but what it would offer goes to a file.
    writeFileSync(
      session.path("rc.zsh"),
      [
        "autoload -U compinit && compinit -u -d $PWD/zcompdump",
        "source udm.zsh",
        "PS1='%% '",
        "zstyle ':completion:*' list-prompt ''",
        "LISTMAX=0",
        "print ready",
      ].join("\n"),
    );
    const environment = { ...session.environment, LC_ALL: "C.UTF-8" };
    const terminal = Terminal.open("zsh -f", { folder: session.folder, environment });
    try {
      terminal.enter("source rc.zsh");
      await terminal.until((screen) => /^ready$/m.test(screen));
      for (const { line, offers } of CASES) {
        terminal.press("C-u");
        terminal.press("C-l");
        await terminal.untilLast("%");
        terminal.type(line);
        await terminal.untilLast(`% ${line}`.trimEnd());
        terminal.press("Tab");
        if (offers.length === 1) {
          const whole = `${line.slice(0, line.lastIndexOf(" ") + 1)}${offers[0]}`;
          await terminal.until((screen) => screen.split("\n")[0]!.replace(/[/=]?\s*$/, "") === `% ${whole}`);
        } else if (offers.length === 0) {
          await sleep(500);
          expect(terminal.screen().split("\n")[0]!.trimEnd()).toBe(`% ${line}`.trimEnd());
        } else {
          // One more Tab lists them where the first one only filled in what they have in common.
          await terminal.until((screen) => screen.split("\n").length > 1 || screen !== `% ${line}`.trimEnd());
          if (!terminal.screen().includes("\n")) terminal.press("Tab");
          const screen = await terminal.until((text) => text.includes("\n"));
          const listed = screen.split("\n").slice(1).join(" ").split(/\s+/).sort();
          expect({ line, listed }).toEqual({ line, listed: offers });
        }
      }
    } finally {
      terminal.close();
    }
  });
});

describe("names", () => {
  test("are found without a lock and without a pool, and trouble is no names", async () => {
    await withSession(async (session) => {
      expect(await session.ok("__complete thins")).toBe("");
      await prepare(session);
      await session.ok("thin deactivate base-day1");
      expect(await session.ok("__complete thins")).toBe("base\nbase-day1\n");
      expect(await session.ok("__complete thins base-")).toBe("base-day1\n");
      expect(await session.ok("__complete any 7")).toBe("7:0\n7:1\n");
      expect(await session.ok("__complete nonsense")).toBe("");
      writeFileSync(session.path("state/state.json"), "{");
      expect(await session.ok("__complete devices")).toBe("");
    });
  });
});
