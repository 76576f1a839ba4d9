/** Runs a command line in this process and captures what it prints. */
import { Readable, Writable } from "node:stream";
import type { OpenHost, Streams } from "../../src/commands/index.js";
import type { BlockNode, Host } from "../../src/host/index.js";
import { main } from "../../src/main.js";

export interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly environment?: Readonly<Record<string, string>>;
  readonly stdin?: string;
  readonly openHost?: OpenHost;
  readonly interrupt?: AbortSignal;
  readonly stdout?: Writable;
}

export function runMain(argv: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const environment = { LC_ALL: "C", HOME: "/nonexistent", ...options.environment };
  const given = {
    ...(options.openHost === undefined ? {} : { openHost: options.openHost }),
    ...(options.interrupt === undefined ? {} : { interrupt: options.interrupt }),
  };
  return captured((streams) => main(argv, streams, { environment, isRoot: false, ...given }), options);
}

/** What a program prints, and its status. */
export async function captured(
  run: (streams: Streams) => Promise<number>,
  options: Pick<RunOptions, "stdin" | "stdout"> = {},
): Promise<Ran> {
  const stdout = new Collector();
  const stderr = new Collector();
  const status = await run({ stdin: Readable.from([options.stdin ?? ""]), stdout: options.stdout ?? stdout, stderr });
  return { status, stdout: stdout.text, stderr: stderr.text };
}

class Collector extends Writable {
  text = "";
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.text += chunk.toString("utf8");
    done();
  }
}

/** A host for tests of what is printed: answers what it is given, and refuses everything else by name. */
export function answeringHost(answers: Partial<Host>): OpenHost {
  return async () =>
    new Proxy({ close: async () => undefined, ...answers } as Host, {
      get(target, key) {
        if (key in target) return Reflect.get(target, key);
        if (key === "then") return undefined;
        throw new Error(`the command asked for '${String(key)}'`);
      },
    });
}

/** A block device with nothing special about it. */
export function blockNode(node: Partial<BlockNode> & Pick<BlockNode, "name" | "majMin" | "sizeBytes">): BlockNode {
  return {
    kname: node.name,
    path: `/dev/${node.name}`,
    removable: false,
    readOnly: false,
    type: "disk",
    mountpoints: [],
    owner: "machine",
    parents: [],
    ...node,
  };
}
