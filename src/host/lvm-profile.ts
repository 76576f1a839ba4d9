/**
 * Profiles of LVM: what one says about automatic extension. Source: lvm.conf's syntax, and dmsetup-cli 13.5: sections in
 * braces, `key = value`, or `section/key = value` outside of one.
 */
import { readFileSync } from "node:fs";
import { codeOf, messageOf, StateError } from "../errors/index.js";
import type { PoolSettings } from "./host.js";

const FOLDER = "/etc/lvm/profile";
const THRESHOLD = "activation/thin_pool_autoextend_threshold";
const PERCENT = "activation/thin_pool_autoextend_percent";

/** @param name of a profile in /etc/lvm/profile, or a path with a slash @throws StateError ENOENT, EACCES, EINVAL */
export function readLvmProfile(name: string): PoolSettings {
  const path = name.includes("/") ? name : `${FOLDER}/${name}.profile`;
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const code = codeOf(error) === "EACCES" ? "EACCES" : "ENOENT";
    throw new StateError(code, `profile ${path}: ${messageOf(error)}`, {
      hint: "name a profile of /etc/lvm/profile without its ending, or give a path with a slash",
      cause: error,
    });
  }
  return settingsOf(parseLvmProfile(text, path), path);
}

/** Values by `section/key`, numbers and texts. @throws StateError EINVAL with the line */
export function parseLvmProfile(text: string, path: string): ReadonlyMap<string, number | string> {
  const values = new Map<string, number | string>();
  const sections: string[] = [];
  const no = (line: number, what: string) =>
    new StateError("EINVAL", `profile ${path}, line ${line}: ${what}`, {
      hint: "sections as NAME { ... }, settings as key = value",
    });
  for (const [index, raw] of text.split("\n").entries()) {
    // Texts hold no # in the settings a profile may have.
    let rest = raw.replace(/#.*$/, "").trim();
    while (rest !== "") {
      const open = /^([\w/]+)\s*\{\s*/.exec(rest);
      const close = /^\}\s*/.exec(rest);
      const setting = /^([\w/]+)\s*=\s*(?:(-?\d+)|"([^"]*)"|(\[[^\]]*\]))\s*/.exec(rest);
      if (open !== null) sections.push(open[1]!);
      else if (close !== null) {
        if (sections.pop() === undefined) throw no(index + 1, "a } without a section");
      } else if (setting !== null) {
        const [, key, number, word] = setting;
        values.set([...sections, key].join("/"), number === undefined ? (word ?? "") : Number(number));
      } else throw no(index + 1, `'${rest.slice(0, 40)}' is not understood`);
      rest = rest.slice((open ?? close ?? setting)![0].length);
    }
  }
  if (sections.length > 0) throw no(text.split("\n").length, `section ${sections.join("/")} has no end`);
  return values;
}

function settingsOf(values: ReadonlyMap<string, number | string>, path: string): PoolSettings {
  const threshold = values.get(THRESHOLD);
  const percent = values.get(PERCENT);
  for (const [key, value] of [
    [THRESHOLD, threshold],
    [PERCENT, percent],
  ] as const) {
    if (value === undefined || (typeof value === "number" && value >= 0)) continue;
    throw new StateError("EINVAL", `profile ${path}: ${key} is '${value}', not a percentage`, { hint: "such as 80" });
  }
  if (threshold === undefined && percent === undefined) {
    throw new StateError("EINVAL", `profile ${path} says nothing about automatic extension`, {
      hint: `it has ${THRESHOLD} and ${PERCENT} in it`,
    });
  }
  return {
    // LVM takes no threshold below 50.
    ...(typeof threshold === "number" ? { autoextendThresholdPercent: Math.min(100, Math.max(50, threshold)) } : {}),
    ...(typeof percent === "number" ? { autoextendPercent: percent } : {}),
  };
}
