/** What a command leaves of the streams that it shares with others. */
import { expect, test } from "vitest";
import { withSession } from "./session.js";

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
