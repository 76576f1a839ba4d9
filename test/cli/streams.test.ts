/** What a command leaves of the streams that it shares with others. */
import { expect, test } from "vitest";
import { withSession } from "./session.js";

test("a command that reads nothing leaves standard input as it was for who shares it", async () => {
  await withSession(async (session) => {
    // cat comes to an empty pipe, which a non-blocking end answers with an error.
    const ran = await session.bash("(sleep 1; echo later) | (udm loop list --no-headings; cat)");
    expect(ran).toEqual({ status: 0, stdout: "later\n", stderr: "" });
  });
});
