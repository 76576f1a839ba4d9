import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { type Session, withSession } from "../cli/session.js";

const SCRIPT = fileURLToPath(new URL("provision.sh", import.meta.url));

async function state(session: Session): Promise<unknown> {
  const { thins } = JSON.parse(await session.ok("thin list --json -o name,size,id,origin"));
  const tables = await session.ok("table save");
  const pools = await session.ok("pool status -o NAME,STATE,SIZE,THINS");
  return { thins, tables, pools };
}

test("a provisioning script runs twice with the same end, and takes everything away", async () => {
  await withSession(async (session) => {
    for (const _ of [1, 2]) {
      expect(await session.run("bash", [SCRIPT, "up"])).toMatchObject({ status: 0, stderr: "" });
    }
    const { thins } = JSON.parse(await session.ok("thin list --json"));
    expect(thins).toHaveLength(20);
    const sizes = new Map(thins.map((thin: { name: string; size: number }) => [thin.name, thin.size / 2 ** 20]));
    expect([sizes.get("vm1"), sizes.get("vm2"), sizes.get("vm2-before")]).toEqual([128, 256, 128]);
    const before = await state(session);
    expect(await session.run("bash", [SCRIPT])).toMatchObject({ status: 0, stderr: "" });
    expect(await state(session)).toEqual(before);

    for (const _ of [1, 2]) {
      expect(await session.run("bash", [SCRIPT, "down"])).toMatchObject({ status: 0, stderr: "" });
    }
    expect(await session.ok("device list")).toBe("");
    expect(await session.ok("loop list")).toBe("");
    expect(existsSync(session.path("data.img"))).toBe(true);
  });
});
