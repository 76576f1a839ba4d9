import { expect, test } from "vitest";
import { examplesOf, PAGES, readPage } from "../manual/pages.js";
import { withSession } from "./session.js";

test.each(PAGES.filter((page) => page.endsWith(".8")))("the examples of %s do what the page says", async (name) => {
  await withSession(async (session) => {
    for (const { command, output } of examplesOf(readPage(name))) {
      const ran = await session.bash(command);
      expect({ command, ...ran }).toEqual({ command, status: 0, stdout: output, stderr: expect.any(String) });
    }
  });
});
