/** The units that come along are what systemd takes: no key it does not know, no program that is not there. */
import { spawnSync } from "node:child_process";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { temporaryFolder } from "../support/make-folder.js";

const UNITS = ["udm-daemon.service", "udm-daemon@.service"].map((name) =>
  fileURLToPath(new URL(`../../systemd/${name}`, import.meta.url)),
);
const HAS_SYSTEMD = process.env.CI === "true" || spawnSync("systemd-analyze", ["--version"]).status === 0;

function verify(path: string): { readonly status: number | null; readonly said: string } {
  const { status, stdout, stderr } = spawnSync("systemd-analyze", ["verify", "--man=no", path], { encoding: "utf8" });
  return { status, said: stdout + stderr };
}

test.skipIf(!HAS_SYSTEMD).each(UNITS)("%s", (unit) => {
  const copy = join(temporaryFolder(), basename(unit));
  copyFileSync(unit, copy);
  expect(verify(copy)).toEqual({ status: 0, said: "" });
  writeFileSync(copy, readFileSync(unit, "utf8").replace("KillMode=", "KillMood="));
  expect(verify(copy).said).toMatch(/Unknown key '?(name )?'?KillMood/);
});
