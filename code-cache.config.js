// After the bundle was built: runs what is run most, and keeps the code that V8 compiled for it beside the bundle, so that
// the next start need not compile it (bin/load.js).
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, Writable } from "node:stream";
import { codeFileName, runProgram } from "./bin/load.js";

const ID = /^\/\/([0-9a-f]{16})\n/;
const MEBIBYTE = 1024 * 1024;

const source = readFileSync("dist/program.cjs", "latin1");
const [, id] = ID.exec(source);
const { script, exports } = runProgram(source, undefined);

const folder = mkdtempSync(join(tmpdir(), "udm-build-"));
try {
  const path = (name) => join(folder, name);
  const sink = () => new Writable({ write: (_piece, _encoding, done) => done() });
  const udm = (...argv) =>
    exports.main(
      argv,
      { stdin: Readable.from([]), stdout: sink(), stderr: sink() },
      {
        environment: { PATH: process.env.PATH, UDM_STATE_DIR: path("state"), UDM_RUN_DIR: path("run") },
        isRoot: process.geteuid?.() === 0,
      },
    );
  await udm("--version");
  await udm("loop", "attach", path("metadata"), "--size", "2m");
  await udm("loop", "attach", path("data"), "--size", "64m");
  await udm("pool", "create", "pool", "--table", `0 ${(64 * MEBIBYTE) / 512} thin-pool 7:0 7:1 128 0`);
  await udm("thin", "create", "pool", "thin", "--size", "8m");
  writeFileSync(path("image"), new Uint8Array(MEBIBYTE).fill(7));
  await udm("thin", "import", "thin", path("image"));
  await udm("thin", "snap", "thin", "copy");
  for (const words of ["lsblk", "pool list", "pool status", "thin list", "table", "status", "info"]) {
    await udm(...words.split(" "));
  }
  await udm("metadata", "check", "pool");
  await udm("metadata", "dump", "pool", "-o", path("xml"));
  await udm("metadata", "delta", "pool", "--thin1", "0", "--thin2", "1");
  writeFileSync(path("restored"), new Uint8Array(2 * MEBIBYTE));
  await udm("metadata", "restore", "--yes", "-i", path("xml"), "-o", path("restored"));
  await udm("metadata", "repair", "--yes", "--no-backup", "-i", path("restored"), "-o", path("repaired"));
  await udm("metadata", "ls", "pool");
} finally {
  rmSync(folder, { recursive: true, force: true });
}

const file = join("dist", codeFileName());
writeFileSync(`${file}.new`, Buffer.concat([Buffer.from(id, "latin1"), script.createCachedData()]));
renameSync(`${file}.new`, file);
