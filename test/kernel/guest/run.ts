/**
 * A guest whose kernel has the real device-mapper: runs a shell script in it, with raw image files attached as /dev/vda,
 * /dev/vdb, ... The guest is made of Debian packages the first time and kept outside the repository, in
 * $UDM_GUEST_CACHE or /var/tmp/udm-guest; its processor is emulated, so nothing but qemu is needed.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, open, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const HERE = dirname(fileURLToPath(import.meta.url));
/** Where the script's output starts on the control disk; before it lies what the guest is given. */
const OUTPUT_AT = 64 * 1024 * 1024;
const CONTROL_BYTES = 2 * OUTPUT_AT;
const OUTPUT_HEADER_BYTES = 32;

export interface GuestOptions {
  /** Further files for the script, by name; they lie beside it in /work. */
  readonly files?: Readonly<Record<string, string>>;
  readonly timeoutMs?: number;
  readonly memoryMiB?: number;
}

export interface GuestResult {
  /** What the script printed, stderr included. */
  readonly stdout: string;
  /** Exit status of the script. */
  readonly status: number;
  readonly console: string;
}

/** Builds the guest unless this version of it is there already. @returns its folder */
export async function prepareGuest(): Promise<string> {
  const sources = await Promise.all(["build.sh", "init", "pool-exec.c"].map((name) => readFile(join(HERE, name))));
  const version = createHash("sha256").update(Buffer.concat(sources)).digest("hex").slice(0, 16);
  const folder = join(process.env["UDM_GUEST_CACHE"] ?? "/var/tmp/udm-guest", version);
  await run("bash", [join(HERE, "build.sh"), folder], { timeout: 600_000 });
  return folder;
}

/** Boots the guest, runs `script` in its shell, and returns when it has powered off. */
export async function runInGuest(
  script: string,
  images: readonly string[],
  options: GuestOptions = {},
): Promise<GuestResult> {
  const guest = await prepareGuest();
  const folder = await mkdtemp(join(tmpdir(), "udm-guest-"));
  try {
    const control = join(folder, "control.img");
    const work = join(folder, "work");
    await mkdir(work);
    const files = { script, ...options.files };
    for (const [name, content] of Object.entries(files)) await writeFile(join(work, name), content);
    await run("tar", ["-cf", control, "-C", work, "."]);
    await truncate(control, CONTROL_BYTES);

    const drives = [...images, control].flatMap((path, index) => [
      "-drive",
      `file=${path},format=raw,if=none,id=disk${index},cache=unsafe,discard=unmap`,
      "-device",
      `virtio-blk-pci,drive=disk${index}${path === control ? ",serial=control" : ""}`,
    ]);
    const { stdout: console } = await run(
      "qemu-system-x86_64",
      [
        ...["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", String(options.memoryMiB ?? 1024)],
        ...["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"],
        ...["-kernel", join(guest, "vmlinuz"), "-initrd", join(guest, "initrd")],
        ...["-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off no_timer_check"],
        ...drives,
      ],
      { timeout: options.timeoutMs ?? 900_000, killSignal: "SIGKILL", maxBuffer: 64 * 1024 * 1024 },
    );
    return { ...(await readOutput(control, console)), console };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function readOutput(control: string, console: string): Promise<{ stdout: string; status: number }> {
  const file = await open(control);
  try {
    const header = Buffer.alloc(OUTPUT_HEADER_BYTES);
    await file.read(header, 0, header.length, OUTPUT_AT);
    const status = Number.parseInt(header.toString("latin1", 0, 8), 10);
    if (Number.isNaN(status)) throw new Error(`the guest left no output; its console:\n${console.slice(-4000)}`);
    const output = Buffer.alloc(Number.parseInt(header.toString("latin1", 8), 10));
    await file.read(output, 0, output.length, OUTPUT_AT + OUTPUT_HEADER_BYTES);
    return { stdout: output.toString("utf8"), status };
  } finally {
    await file.close();
  }
}
