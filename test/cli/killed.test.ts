/**
 * Random commands killed with SIGKILL at random moments. Each is first carried out whole on a copy of the folder, which
 * tells what there has to be afterwards: all of it where the command reported success, and otherwise all of it or nothing.
 * Only the bytes of a write that was cut off may be mixed; everything else must not even then.
 */
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { openHost } from "../../src/host/index.js";
import { copyOf, sight } from "../host/sight.js";
import { Random } from "../support/random.js";
import { HAS_THIN_TOOLS, thinCheck } from "../support/thin-tools.js";
import { finished, Session, THROUGH_DAEMON, UDM, withSession } from "./session.js";

const RUNS = process.env.UDM_TEST_LONG === undefined ? 25 : 300;
/** Shares of the time the same command took just before: from the end of node's start to a little behind the command's end. */
const EARLIEST = 0.4;
const LATEST = 1.2;
/** One in so many is left to end, one is killed before it can have begun: the others depend on the machine. */
const SPARED_EVERY = 8;
const MAX_THINS = 6;
const CHECK_EVERY = 10;

interface Line {
  readonly words: string;
  readonly input?: Buffer;
  /** The device whose bytes may be mixed when it is cut off. */
  readonly writes?: string;
}

interface Seen {
  readonly thins: readonly string[];
  readonly inactive: readonly string[];
  readonly isSuspended: boolean;
}

async function look(session: Session): Promise<{ readonly text: string; readonly seen: Seen }> {
  await using host = await opened(session);
  const text = await sight(host.host);
  const thins = await host.host.listThins();
  const [pool] = await host.host.listPools();
  return {
    text,
    seen: {
      thins: thins.filter(({ active }) => active).map(({ name }) => name!),
      inactive: thins.filter(({ active }) => !active).map(({ name }) => name!),
      isSuspended: pool?.state === "SUSPENDED",
    },
  };
}

async function opened(session: Session) {
  const host = await openHost({ stateDir: session.path("state"), runDir: session.path("run") });
  return { host, [Symbol.asyncDispose]: () => host.close() };
}

function nextLine(random: Random, seen: Seen, round: number): Line {
  if (seen.isSuspended) return { words: "table resume pool" };
  const { thins, inactive } = seen;
  if (thins.length === 0) return { words: `thin create pool t${round} --size 1m` };
  const some = random.pick(thins);
  const kinds = [
    "write",
    "write",
    "rename",
    "resize",
    "grow",
    "grow both",
    "set",
    "suspend",
    "roll back",
    "trim",
    "batch",
  ];
  if (thins.length + inactive.length < MAX_THINS) kinds.push("create", "snap", "snap", "snap");
  else kinds.push("delete", "delete", "delete");
  if (inactive.length > 0) kinds.push("activate", "activate");
  else kinds.push("deactivate");
  switch (random.pick(kinds)) {
    case "write": {
      const input = Buffer.alloc(65536 * random.between(1, 4), random.between(1, 255));
      return { words: `thin write ${some} --offset ${random.between(0, 8) * 65536}`, input, writes: some };
    }
    case "rename":
      return { words: `thin rename ${some} r${round}` };
    case "resize":
      return { words: `thin resize ${some} +64k` };
    case "grow":
      return { words: "pool resize pool +1m" };
    case "grow both":
      return { words: "pool resize pool --data-size +1m --metadata-size +512k" };
    case "set":
      return { words: `pool set pool --low-water ${random.between(1, 50)}` };
    case "suspend":
      return { words: "table suspend pool" };
    case "roll back":
      return { words: `thin rollback ${some} ${random.pick(thins)} --yes` };
    case "trim":
      return { words: `thin trim ${some} --offset 64k --length 192k --yes`, writes: some };
    case "batch":
      return {
        words: "batch --atomic -",
        input: Buffer.from(
          `thin snap ${some} b${round}\nthin create pool c${round} --size 1m\nthin delete ${some} -y\n`,
        ),
      };
    case "create":
      return { words: `thin create pool n${round} --size 1m` };
    case "snap":
      return { words: `thin snap ${some} s${round}` };
    case "delete":
      return { words: `thin delete ${some} --yes` };
    case "activate":
      return { words: `thin activate ${inactive[0]} ${inactive[0]}` };
    default:
      return { words: `thin deactivate ${some}` };
  }
}

/** Without what a write to the device changes: its bytes, and how much it and the pool have mapped. */
function without(device: string | undefined, text: string): string {
  if (device === undefined) return text;
  return text
    .split("\n")
    .filter((line) => !line.startsWith(`thin ${device} `))
    .map((line) => line.replace(/ used \d+$/, ""))
    .join("\n");
}

test.skipIf(THROUGH_DAEMON)(
  `${RUNS} random commands, each killed at a random moment: what was reported as done is there, all else is whole or not at all`,
  { timeout: 1_800_000 },
  async () => {
    await withSession(async (session) => {
      const random = new Random(RUNS);
      await session.ok("pool create pool --data data.img --metadata meta.img --data-size 16m --metadata-size 4m");
      await session.ok("thin create pool t --size 1m");
      await session.ok("thin write t", { input: Buffer.alloc(400_000, 7) });
      const counts = { done: 0, after: 0, before: 0 };
      for (let round = 0; round < RUNS; round++) {
        const before = await look(session);
        const line = nextLine(random, before.seen, round);
        const argv = [UDM, ...line.words.split(" ")];
        const { wanted, tookMs } = await carriedOut(session, line);

        const child = session.start(process.execPath, argv);
        child.stdin!.on("error", () => undefined);
        child.stdin!.end(line.input ?? "");
        const ended = finished(child);
        const share = round % SPARED_EVERY === 1 ? 0 : EARLIEST + random.next() * (LATEST - EARLIEST);
        if (round % SPARED_EVERY !== 0) await Promise.race([ended, sleep(share * tookMs)]);
        else await ended;
        child.kill("SIGKILL");
        const { status, stderr } = await ended;

        const title = `round ${round}: udm ${line.words}, status ${status}`;
        const { text } = await look(session);
        if (wanted === undefined) {
          // It is refused, whole; killed or not.
          expect(text, title).toBe(before.text);
        } else if (status === 0) {
          counts.done++;
          expect(text, title).toBe(wanted);
        } else {
          expect([null, 0], `${title}: ${stderr}`).toContain(status);
          const found = without(line.writes, text);
          expect([without(line.writes, before.text), without(line.writes, wanted)], title).toContain(found);
          counts[text === before.text ? "before" : "after"]++;
        }
        if (round % CHECK_EVERY === 0 && HAS_THIN_TOOLS) {
          expect(thinCheck(readFileSync(session.path("meta.img"))), title).toBeUndefined();
        }
      }
      // Otherwise nothing was shown.
      expect(counts.done).toBeGreaterThan(0);
      expect(counts.before).toBeGreaterThan(0);
      if (HAS_THIN_TOOLS) expect(thinCheck(readFileSync(session.path("meta.img")))).toBeUndefined();
    });
  },
);

/** What there is when the command runs to its end, on a copy, undefined when it is refused; and how long it took. */
async function carriedOut(
  session: Session,
  line: Line,
): Promise<{ readonly wanted: string | undefined; readonly tookMs: number }> {
  const copy = new Session(copyOf(session.folder));
  try {
    mkdirSync(join(copy.folder, "bin"), { recursive: true });
    const begin = performance.now();
    const { status } = await copy.udm(line.words, line.input === undefined ? {} : { input: line.input });
    const tookMs = performance.now() - begin;
    return { wanted: status === 0 ? (await look(copy)).text : undefined, tookMs };
  } finally {
    rmSync(copy.folder, { recursive: true, force: true });
  }
}
