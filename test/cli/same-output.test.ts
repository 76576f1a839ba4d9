/** The same commands with and without a daemon: every byte of output, every message with --verbose, every status. */
import { expect, test } from "vitest";
import { type Ran, type Session, THROUGH_DAEMON, withSession } from "./session.js";

const MIB = 2 ** 20;

/** A pool that fills, commands that fail, commands that look. */
const COMMANDS: readonly (readonly [words: string, input?: Buffer])[] = [
  ["-v pool create pool --data data.img --metadata meta.img --data-size 8m --metadata-size 8m"],
  ["-v thin create pool a --size 100m"],
  ["-v thin write a", Buffer.alloc(20 * MIB, 7)],
  ["-v thin snap a b"],
  ["-v pool resize pool 64m"],
  ["-v thin snap a b"],
  ["-v --json thin snap a b"],
  ["thin read a --offset 1m --length 100000"],
  ["thin export b ./b.img --verify"],
  ["thin import b nosuch.img"],
  ["thin write b --offset 99.5m", Buffer.alloc(MIB)],
  ["thin delete a"],
  ["-v --json thin delete nosuch --yes"],
  ["--dry-run thin snap a c"],
  ["thin list --json"],
  ["device info"],
  ["table status"],
  ["pool check pool"],
  ["device wait a --timeout 0.1"],
  ["-v pool remove pool"],
];

async function runAll(session: Session): Promise<readonly (Ran & { readonly words: string })[]> {
  const all: (Ran & { readonly words: string })[] = [];
  for (const [words, input] of COMMANDS) {
    const ran = await session.udm(words, input === undefined ? {} : { input });
    const plain = (text: string) => text.replaceAll(session.folder, "FOLDER");
    all.push({ words, status: ran.status, stdout: plain(ran.stdout), stderr: plain(ran.stderr) });
  }
  return all;
}

test.skipIf(THROUGH_DAEMON)("nobody can tell by the output whether a daemon runs", async () => {
  const own = await withSession(runAll);
  const daemon = await withSession(async (session) => {
    await session.ok("daemon start");
    const all = await runAll(session);
    await session.ok("daemon stop");
    return all;
  });
  expect(daemon).toEqual(own);
  expect(own.filter(({ status }) => status !== 0).length).toBeGreaterThan(5);
});
