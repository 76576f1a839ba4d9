import { expect, test } from "vitest";
import { splitWords } from "../../src/commands/batch/words.js";
import { commandSpecs } from "../../src/commands/completion/specs.js";
import { COMMANDS, Context } from "../../src/commands/index.js";
import { completeLine, type Knowledge } from "../../src/commands/shell/complete-line.js";

const streams = { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr };
const specs = await commandSpecs(new Context({ streams, environment: {}, isRoot: false }));
const known: Knowledge = {
  specs: new Map(specs.map((spec) => [spec.title, spec])),
  names: (kind) => ({ pools: ["p"], thins: ["a", "b"], devices: ["a", "p"], loops: ["7:0"], any: ["a", "7:0"] })[kind],
};

test("every command has its options and arguments, and an argument that names something says what", () => {
  expect(specs.map(({ family, name }) => [family, name])).toEqual(COMMANDS.map(({ family, name }) => [family, name]));
  // Names of what is yet to be made, sizes, numbers, and words of messages.
  const free = specs.flatMap(({ title, places }) =>
    places.filter(({ kind }) => kind === "none").map(({ name }) => `${title} ${name}`),
  );
  expect(free.filter((each) => !/ (name|new|size|pool|block|event|sector|word)$/.test(each))).toEqual([]);
  const named = specs.filter(
    ({ title }) => !["pool create", "thin create", "thin snap", "thin activate"].includes(title),
  );
  for (const { title, places } of named) {
    if (places[0]?.name === "name") expect({ title, kind: places[0].kind }).not.toEqual({ title, kind: "none" });
  }
});

test.each([
  ["th", ["thin "]],
  ["thin sn", ["snap "]],
  ["thin snap ", ["a", "b"]],
  ["thin snap a ", []],
  ["thin delete a b ", ["a", "b"]],
  ["pool status ", ["p "]],
  ["thin snap --si", ["--size "]],
  ["thin snap --size ", []],
  ["table show --target=ze", ["--target=zero "]],
  ["udm --units k thin rollback a ", ["a", "b"]],
  ["thin snap -- ", ["a", "b"]],
  ["ex", ["exit "]],
  ["thin snap 'a", []],
])("at the prompt, '%s' offers %j", (text, offers) => {
  const [hits] = completeLine(known, text);
  expect(hits).toEqual(offers);
});

test.each<[string, readonly string[]]>([
  ["a b  c", ["a", "b", "c"]],
  ["a 'b c' \"d e\"f", ["a", "b c", "d ef"]],
  ["a\\ b '' \"\"", ["a b", "", ""]],
  ['"a\\"b\\\\c\\d"', ['a"b\\c\\d']],
  ["'a\\'", ["a\\"]],
  ["a#b # c", ["a#b"]],
  ["a \\\n b", ["a", "b"]],
  ["a\\\nb", ["ab"]],
  ["'a\nb'", ["a\nb"]],
  ["'$x' \\$x \\|", ["$x", "$x", "|"]],
  ["\t a\r", ["a"]],
  ["", []],
])("the line %j is the words %j", (text, words) => {
  expect(splitWords(text)).toEqual({ kind: "words", words });
});

test.each(["a 'b", 'a "b', "a \\", '"a\\'])("the line %j goes on", (text) => {
  expect(splitWords(text).kind).toBe("unfinished");
});
