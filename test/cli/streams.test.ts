/** What a command leaves of the streams that it shares with others. */
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { withSession } from "./session.js";

const THIN_CHECK = fileURLToPath(new URL("../../bin/compat/thin_check", import.meta.url));

test("output that is lost is a failure, with a word on standard error; a reader that has gone is none", async () => {
  await withSession(async (session) => {
    await session.ok("pool create p --data d.img --metadata m.img --data-size 16m");
    const full = "standard output: no space left on device\nhint: ";
    for (const line of [
      "pool list",
      "pool list --json",
      "metadata check p",
      "metadata dump p",
      "metadata ls p",
      "--version",
    ]) {
      const ran = await session.bash(`udm ${line} >/dev/full`);
      expect(ran.status, line).toBe(1);
      expect(ran.stderr.split(full), line).toEqual(["udm: ", expect.stringMatching(/^.+\n$/)]);
      expect(await session.bash(`udm ${line} | true; exit \${PIPESTATUS[0]}`), line).toMatchObject({
        status: 0,
        stderr: "",
      });
    }
    // What was found says more than that it could not be told.
    expect((await session.bash("head -c 8192 /dev/zero >blank; udm metadata check blank >/dev/full")).status).toBe(3);
    const checked = await session.bash(`"${THIN_CHECK}" m.img >/dev/full`);
    expect(checked).toMatchObject({ status: 1, stderr: expect.stringContaining(`\nthin_check: ${full}`) });
  });
});

test("a command that reads nothing leaves standard input as it was for who shares it", async () => {
  await withSession(async (session) => {
    // While it runs, cat comes to the same empty pipe, which a non-blocking end answers with an error.
    const script = [
      "exec 3<&0",
      "udm status --watch 0.1 <&3 >/dev/null &",
      "sleep 1; cat <&3; status=$?; kill $!; wait; exit $status",
    ];
    const ran = await session.bash(`(sleep 2; echo later) | (${script.join("\n")})`);
    expect(ran).toEqual({ status: 0, stdout: "later\n", stderr: "" });
  });
});
