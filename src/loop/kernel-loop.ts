/** The kernel's loop devices, through losetup: it knows the old and the new way to set one up, and finds the node. */
import { type Code, StateError, ToolError } from "../errors/index.js";
import { type KernelLoop, listKernelLoops, type RunResult, run } from "../io/index.js";

export interface KernelLoopRequest {
  readonly file: string;
  readonly offsetBytes?: number;
  readonly sizeLimitBytes?: number;
  readonly readOnly?: boolean;
  readonly sectorBytes?: number;
  /** Default the first free one. */
  readonly number?: number;
  /** Past the page cache of the file: nothing is cached twice. */
  readonly directIo?: boolean;
}

export interface AttachedKernelLoop {
  /** `/dev/loopN` */
  readonly path: string;
  readonly number: number;
  /** What losetup warned about, a line each. */
  readonly warnings: readonly string[];
}

/** The system's words, as losetup ends its messages. */
const CODE_BY_REASON: readonly (readonly [RegExp, Code])[] = [
  [/Permission denied|Operation not permitted/, "EPERM"],
  [/No such device or address/, "ENXIO"],
  [/No such device/, "ENODEV"],
  [/No such file or directory/, "ENOENT"],
  [/Device or resource busy/, "EBUSY"],
  [/Is a directory|Invalid argument/, "EINVAL"],
];

/** @throws StateError EPERM (needs root), ENOENT, EBUSY (number taken), EINVAL; ToolError without losetup */
export async function attachKernelLoop(request: KernelLoopRequest): Promise<AttachedKernelLoop> {
  const { stdout, stderr } = await losetup(attachArguments(request), `${request.file}: cannot be attached`);
  const path = stdout.trim();
  const number = numberOf(path);
  if (number === undefined) throw new ToolError("EIO", `losetup answered '${path}', wanted /dev/loopN`);
  return { path, number, warnings: stderr === "" ? [] : stderr.split("\n") };
}

/** The words behind `losetup`, for the plan of a dry run too. */
export function attachArguments(request: KernelLoopRequest): string[] {
  const words = request.number === undefined ? ["--find", "--show"] : ["--show", `/dev/loop${request.number}`];
  if (request.readOnly === true) words.push("--read-only");
  if (request.offsetBytes !== undefined) words.push("--offset", String(request.offsetBytes));
  if (request.sizeLimitBytes !== undefined) words.push("--sizelimit", String(request.sizeLimitBytes));
  if (request.sectorBytes !== undefined) words.push("--sector-size", String(request.sectorBytes));
  if (request.directIo === true) words.push("--direct-io=on");
  return [...words, request.file];
}

/**
 * Detaches `/dev/loopN`. One that is still open goes with its last user.
 * @returns the device as it is when it is still there
 * @throws StateError ENXIO when it is not attached
 */
export async function detachKernelLoop(path: string): Promise<KernelLoop | undefined> {
  await losetup(["--detach", path], `${path}: cannot be detached`);
  return listKernelLoops().find((loop) => loop.number === numberOf(path));
}

/** Takes up the size its file has now. */
export async function resizeKernelLoop(path: string): Promise<void> {
  await losetup(["--set-capacity", path], `${path}: cannot be resized`);
}

async function losetup(args: readonly string[], failure: string): Promise<RunResult> {
  const result = await run("losetup", args, { okStatuses: [0, 1] });
  if (result.status === 0) return result;
  const said = result.stderr.replace(/^losetup: /, "").replaceAll(/\s*\n\s*/g, "; ");
  const code = CODE_BY_REASON.find(([reason]) => reason.test(said))?.[1] ?? "EIO";
  const hint = code === "EPERM" ? { hint: "the kernel's loop devices need root; udm's own do not" } : {};
  throw new StateError(code, `${failure}: ${said}`, hint);
}

function numberOf(path: string): number | undefined {
  const match = /^\/dev\/loop(\d+)$/.exec(path);
  return match === null ? undefined : Number(match[1]);
}
