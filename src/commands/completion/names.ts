/** Names for completion, from the state file alone: nothing is locked, opened or mended, and a failure is no names. */
import type { State } from "../../device-registry/index.js";
import type { NameKind } from "./specs.js";

/** Reads the state anew each time. */
export type NameReader = (kind: NameKind) => readonly string[];

export async function nameReader(stateDir: string): Promise<NameReader> {
  const { StateFile } = await import("../../device-registry/index.js");
  const file = new StateFile(stateDir);
  return (kind) => {
    try {
      return namesOf(file.read(), kind);
    } catch {
      return [];
    }
  };
}

function namesOf({ devices, loops }: State, kind: NameKind): readonly string[] {
  const loopNames = loops.map(({ number }) => `7:${number}`);
  const deviceNames = devices.map(({ name }) => name);
  switch (kind) {
    case "pools":
      return devices
        .filter(({ live, inactive }) => (live ?? inactive?.lines)?.[0]?.type === "thin-pool")
        .map(({ name }) => name);
    case "thins": {
      const shown = devices.filter(({ live }) => live?.length === 1 && live[0]!.type === "thin");
      const remembered = devices.flatMap(({ pool }) => pool?.thins ?? []);
      return [...new Set([...shown, ...remembered].map(({ name }) => name))].sort();
    }
    case "devices":
      return deviceNames;
    case "loops":
      return loopNames;
    case "any":
      return [...deviceNames, ...loopNames];
  }
}
