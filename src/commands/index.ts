/**
 * All commands: family, verb, one line on what it does, and how to load it. Nothing of a command is read before it is
 * wanted, so that starting one does not pay for the others.
 */
import type { Command } from "commander";
import type { Context } from "./context.js";

export { change, defined } from "./change.js";
export {
  Context,
  type Environment,
  type Failure,
  type OpenHost,
  type RunLine,
  type Streams,
  stateDirectories,
} from "./context.js";
export {
  addGlobalOptions,
  EXISTENCE_FLAGS,
  globalOptions,
  readGlobals,
  refuseColumns,
  splitAtWord,
} from "./globals.js";

export type { ThinTool } from "./metadata/thin-tools.js";

export type CommandFactory = (context: Context) => Command;

export interface CommandEntry {
  /** Undefined for a command of one word. */
  readonly family: string | undefined;
  readonly name: string;
  readonly summary: string;
  readonly load: () => Promise<CommandFactory>;
}

export interface Family {
  readonly name: string;
  readonly summary: string;
}

export const FAMILIES: readonly Family[] = [
  { name: "loop", summary: "files as numbered devices" },
  { name: "pool", summary: "thin pools" },
  { name: "thin", summary: "thin devices and snapshots" },
  { name: "table", summary: "tables of mapped devices" },
  { name: "device", summary: "mapped devices" },
  { name: "metadata", summary: "metadata of pools, in use or not" },
  { name: "daemon", summary: "the process that serves devices" },
];

const entry = (family: string | undefined, name: string, summary: string, load: CommandEntry["load"]) => ({
  family,
  name,
  summary,
  load,
});

const DATA = {
  read: async () => (await import("./data/read.js")).readCommand,
  write: async () => (await import("./data/write.js")).writeCommand,
  export: async () => (await import("./data/export.js")).exportCommand,
  import: async () => (await import("./data/import.js")).importCommand,
  trim: async () => (await import("./data/trim.js")).trimCommand,
};

const dataEntries = (family: string): readonly CommandEntry[] => [
  entry(family, "read", "bytes to standard output", DATA.read),
  entry(family, "write", "bytes from standard input", DATA.write),
  entry(family, "export", "copy to an image file", DATA.export),
  entry(family, "import", "copy from an image file", DATA.import),
  entry(family, "trim", "give blocks back", DATA.trim),
];

export const COMMANDS: readonly CommandEntry[] = [
  entry("loop", "attach", "bind a file to a number", async () => (await import("./loop/attach.js")).attachCommand),
  entry("loop", "detach", "forget loop devices", async () => (await import("./loop/detach.js")).detachCommand),
  entry("loop", "resize", "take up a file's new size", async () => (await import("./loop/resize.js")).resizeCommand),
  entry("loop", "list", "list loop devices", async () => (await import("./loop/list.js")).listCommand),
  entry("pool", "create", "make a pool", async () => (await import("./pool/create.js")).createCommand),
  entry("pool", "resize", "grow a pool", async () => (await import("./pool/resize.js")).resizeCommand),
  entry("pool", "status", "show how full pools are", async () => (await import("./pool/status.js")).statusCommand),
  entry("pool", "list", "list pools", async () => (await import("./pool/list.js")).listCommand),
  entry("pool", "set", "change settings", async () => (await import("./pool/set.js")).setCommand),
  entry("pool", "check", "a line for monitoring", async () => (await import("./pool/check.js")).checkCommand),
  entry("pool", "map", "draw the data device", async () => (await import("./pool/map.js")).mapCommand),
  entry(
    "pool",
    "message",
    "send a message to the pool",
    async () => (await import("./pool/message.js")).messageCommand,
  ),
  entry("pool", "remove", "take a pool away", async () => (await import("./pool/remove.js")).removeCommand),
  entry("thin", "create", "make a thin device", async () => (await import("./thin/create.js")).createCommand),
  entry("thin", "snap", "make a snapshot", async () => (await import("./thin/snap.js")).snapCommand),
  entry("thin", "delete", "delete thin devices", async () => (await import("./thin/delete.js")).deleteCommand),
  entry(
    "thin",
    "activate",
    "use a thin device of a pool",
    async () => (await import("./thin/activate.js")).activateCommand,
  ),
  entry("thin", "deactivate", "stop using it", async () => (await import("./thin/deactivate.js")).deactivateCommand),
  entry("thin", "resize", "change its size", async () => (await import("./thin/resize.js")).resizeCommand),
  entry("thin", "rename", "change its name", async () => (await import("./thin/rename.js")).renameCommand),
  entry("thin", "rollback", "go back to a snapshot", async () => (await import("./thin/rollback.js")).rollbackCommand),
  entry("thin", "list", "list thin devices", async () => (await import("./thin/list.js")).listCommand),
  entry("thin", "usage", "what a set of them costs", async () => (await import("./thin/usage.js")).usageCommand),
  entry("thin", "map", "where its blocks live", async () => (await import("./thin/map.js")).mapCommand),
  entry("thin", "diff", "where two of them differ", async () => (await import("./thin/diff.js")).diffCommand),
  ...dataEntries("thin"),
  entry("table", "load", "load the inactive table", async () => (await import("./table/load.js")).loadCommand),
  entry("table", "resume", "make it live", async () => (await import("./table/resume.js")).resumeCommand),
  entry("table", "suspend", "quiesce a device", async () => (await import("./table/suspend.js")).suspendCommand),
  entry("table", "clear", "drop the inactive table", async () => (await import("./table/clear.js")).clearCommand),
  entry("table", "show", "print tables", async () => (await import("./table/show.js")).showCommand),
  entry("table", "status", "print status lines", async () => (await import("./table/status.js")).statusCommand),
  entry("table", "save", "print all tables in one line", async () => (await import("./table/save.js")).saveCommand),
  entry(
    "table",
    "restore",
    "make devices from that line",
    async () => (await import("./table/restore.js")).restoreCommand,
  ),
  entry("device", "list", "list mapped devices", async () => (await import("./device/list.js")).listCommand),
  entry("device", "info", "show one in full", async () => (await import("./device/info.js")).infoCommand),
  entry("device", "deps", "what it stands on", async () => (await import("./device/deps.js")).depsCommand),
  entry("device", "rename", "change its name", async () => (await import("./device/rename.js")).renameCommand),
  entry("device", "remove", "take mapped devices away", async () => (await import("./device/remove.js")).removeCommand),
  entry(
    "device",
    "message",
    "send a message to a target",
    async () => (await import("./device/message.js")).messageCommand,
  ),
  entry("device", "wait", "wait for its next event", async () => (await import("./device/wait.js")).waitCommand),
  ...dataEntries("device"),
  entry(
    "daemon",
    "start",
    "serve devices in the background",
    async () => (await import("./daemon/start.js")).startCommand,
  ),
  entry("daemon", "stop", "end it, with all it serves", async () => (await import("./daemon/stop.js")).stopCommand),
  entry("daemon", "status", "what it serves", async () => (await import("./daemon/status.js")).statusCommand),
  entry(
    undefined,
    "attach",
    "make a device a block device of this machine",
    async () => (await import("./attach/attach.js")).attachCommand,
  ),
  entry(undefined, "detach", "take it away", async () => (await import("./attach/detach.js")).detachCommand),
  entry(undefined, "mount", "attach and mount", async () => (await import("./attach/mount.js")).mountCommand),
  entry(undefined, "umount", "unmount and detach", async () => (await import("./attach/umount.js")).umountCommand),
  entry(
    "metadata",
    "check",
    "look for damage and leaks",
    async () => (await import("./metadata/check.js")).checkCommand,
  ),
  entry(
    "metadata",
    "dump",
    "devices and mappings as XML",
    async () => (await import("./metadata/dump.js")).dumpCommand,
  ),
  entry("metadata", "restore", "metadata from XML", async () => (await import("./metadata/restore.js")).restoreCommand),
  entry(
    "metadata",
    "repair",
    "new metadata from damaged",
    async () => (await import("./metadata/repair.js")).repairCommand,
  ),
  entry("metadata", "ls", "its thin devices", async () => (await import("./metadata/ls.js")).lsCommand),
  entry(
    "metadata",
    "delta",
    "where two thin devices differ",
    async () => (await import("./metadata/delta.js")).deltaCommand,
  ),
  entry("metadata", "rmap", "who maps data blocks", async () => (await import("./metadata/rmap.js")).rmapCommand),
  entry("metadata", "damage", "break a copy", async () => (await import("./metadata/damage.js")).damageCommand),
  entry("metadata", "explore", "its blocks", async () => (await import("./metadata/explore.js")).exploreCommand),
  entry("metadata", "stat", "figures of it", async () => (await import("./metadata/stat.js")).statCommand),
  entry("metadata", "trim", "discard free data", async () => (await import("./metadata/trim.js")).trimCommand),
  entry("metadata", "pack", "metadata to a small file", async () => (await import("./metadata/pack.js")).packCommand),
  entry(
    "metadata",
    "unpack",
    "metadata from such a file",
    async () => (await import("./metadata/unpack.js")).unpackCommand,
  ),
  entry(
    "metadata",
    "shrink",
    "fewer data blocks for a pool",
    async () => (await import("./metadata/shrink.js")).shrinkCommand,
  ),
  entry("metadata", "size", "how large it has to be", async () => (await import("./metadata/size.js")).sizeCommand),
  entry(undefined, "serve", "an NBD server", async () => (await import("./serve.js")).serveCommand),
  entry(undefined, "lsblk", "the tree of block devices", async () => (await import("./lsblk/lsblk.js")).lsblkCommand),
  entry(undefined, "status", "pools at a glance", async () => (await import("./status.js")).statusCommand),
  entry(
    undefined,
    "doctor",
    "what is wrong, and how to mend it",
    async () => (await import("./doctor.js")).doctorCommand,
  ),
  entry(undefined, "monitor", "look after pools", async () => (await import("./monitor/monitor.js")).monitorCommand),
  entry(undefined, "events", "what happened to pools", async () => (await import("./monitor/events.js")).eventsCommand),
  entry(undefined, "batch", "commands of a file", async () => (await import("./batch/command.js")).batchCommand),
  entry(undefined, "shell", "a prompt for commands", async () => (await import("./shell/command.js")).shellCommand),
  entry(
    undefined,
    "completion",
    "a script for a shell's Tab key",
    async () => (await import("./completion/command.js")).completionCommand,
  ),
  entry(undefined, "schema", "the shapes of --json", async () => (await import("./schema/command.js")).schemaCommand),
];

/** For programs only: called by the scripts that completion prints. */
export const HIDDEN_COMMANDS: readonly CommandEntry[] = [
  entry(undefined, "__complete", "", async () => (await import("./completion/complete.js")).completeCommand),
];

/** Programs that bin/compat stands in for. */
export const loadThinTools = () => import("./metadata/thin-tools.js");
