/** What a person at a terminal sees: questions, colour; and what a script sees instead. */
import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { type Session, withSession } from "./session.js";

const hasScript = spawnSync("script", ["--version"]).error === undefined || process.env.CI === "true";

/** Runs udm on a terminal of its own, which `script` of util-linux makes. */
function onTerminal(session: Session, line: string, typed: string, environment: Record<string, string> = {}) {
  return session.run("script", ["-qec", line, "/dev/null"], { input: typed, environment });
}

async function pool(session: Session): Promise<void> {
  await session.ok("pool create p --data d --metadata m --data-size 1g --metadata-size 16m");
  await session.ok("thin create p a --size 64m");
}

test.runIf(hasScript)("deleting asks: no leaves it, yes deletes it", async () => {
  await withSession(async (session) => {
    await pool(session);
    const no = await onTerminal(session, "udm thin delete a", "n\n");
    expect(no.stdout).toContain("udm: delete thin device 'a'? [y/N]");
    expect(no.status).toBe(1);
    expect(await session.ok("thin list --no-headings -o name")).toBe("a\n");
    expect((await onTerminal(session, "udm thin delete a", "y\n")).status).toBe(0);
    expect(await session.ok("thin list")).toBe("");
  });
});

test.runIf(hasScript)("errors are coloured on a terminal only, and not with NO_COLOR", async () => {
  await withSession(async (session) => {
    const colour = { TERM: "xterm" };
    expect((await onTerminal(session, "udm thin info", "", colour)).stdout).toContain("\u001b[31mudm:");
    expect((await onTerminal(session, "udm thin info", "", { ...colour, NO_COLOR: "1" })).stdout).not.toContain(
      "\u001b[",
    );
    expect((await session.udm("thin info", { environment: colour })).stderr).not.toContain("\u001b[");
  });
});

test.runIf(hasScript)("import draws a bar on a terminal and nothing elsewhere", async () => {
  await withSession(async (session) => {
    await pool(session);
    await session.bash("head -c 32M /dev/urandom > image");
    expect((await session.udm("thin import a image")).stderr).toBe("");
    const seen = await onTerminal(session, "udm thin import a image", "");
    expect(seen.status).toBe(0);
    expect(seen.stdout).toMatch(/import a \[#+\.*\] +\d+% /);
    expect((await onTerminal(session, "udm -q thin import a image", "")).stdout).toBe("");
  });
});
