/** The prompt, in a pseudo-terminal that script(1) makes. */
import { expect, test } from "vitest";
import { finished, type Session, UDM, withSession } from "./session.js";

function shell(session: Session, options: readonly string[] = []) {
  const words = [process.execPath, UDM, "shell", ...options].join(" ");
  const child = session.start("script", ["-qec", words, "/dev/null"], { environment: { NO_COLOR: "1", TERM: "dumb" } });
  let told = "";
  const waiting = new Set<() => void>();
  child.stdout!.on("data", (chunk: Buffer) => {
    told += chunk.toString();
    for (const look of waiting) look();
  });
  /** Waits until the text was printed, and forgets all up to it. */
  const until = (text: string) =>
    new Promise<string>((resolve) => {
      const look = () => {
        const at = told.indexOf(text);
        if (at < 0) return;
        waiting.delete(look);
        const before = told.slice(0, at);
        told = told.slice(at + text.length);
        resolve(before);
      };
      waiting.add(look);
      look();
    });
  return { type: (line: string) => child.stdin!.write(`${line}\r`), until, ended: finished(child) };
}

test("an idle shell gives way to other processes, and both see what the other did", async () => {
  await withSession(async (session) => {
    await session.ok("pool create pool --data d --metadata m --data-size 64m --metadata-size 16m");
    const prompt = shell(session);
    await prompt.until("udm> ");
    prompt.type("thin create pool a --size 1m");
    await prompt.until("udm> ");
    // The pool may be open in the shell: another process has its turn all the same.
    await session.ok("thin snap a b --lock-timeout 1.5");
    await session.ok("pool set pool --low-water 5 --lock-timeout 1.5");
    prompt.type("thin snap b c");
    await prompt.until("udm> ");
    prompt.type("thin snap nope x");
    await prompt.until("no thin device 'nope'");
    await prompt.until("udm> ");
    // By itself it claims what rested.
    prompt.type("pool set pool --low-water 6");
    await prompt.until("udm> ");
    prompt.type("thin list -o NAME --no-headings");
    expect(await prompt.until("c\r\n")).toMatch(/a\s+b\s+$/);
    prompt.type("thin delete c");
    await prompt.until("delete thin device 'c'?");
    prompt.type("y");
    await prompt.until("udm> ");
    prompt.type("exit");
    expect((await prompt.ended).status).toBe(0);
    expect(await session.ok("thin list -o NAME --no-headings")).toBe("a\nb\n");
  });
}, 30_000);
