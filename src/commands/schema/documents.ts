/**
 * Every document that --json prints: its shape, and which commands print it. What the commands print is typed by these
 * (`DocumentOf`), `udm schema` and the files of the package are made of them. Loaded by `udm schema` alone.
 */
import { DEVICE_COLUMNS } from "../device/list.js";
import { LOOP_COLUMNS } from "../loop/list.js";
import { POOL_COLUMNS } from "../pool/columns.js";
import { DIFF_COLUMNS } from "../thin/diff.js";
import { THIN_COLUMNS } from "../thin/list.js";
import { ONE_BLOCK_COLUMNS, RUN_COLUMNS } from "../thin/map.js";
import { USAGE_COLUMNS } from "../thin/usage.js";
import {
  always,
  any,
  bytes,
  count,
  flag,
  list,
  number,
  optional,
  orNull,
  percent,
  record,
  rowShape,
  type Shape,
  text,
  type ValueOf,
  word,
} from "./shape.js";

const POOL_EVENTS = [
  ...(["low-water", "metadata-low-water", "out-of-data-space", "out-of-metadata-space"] as const),
  ...(["read-only", "failed", "writable", "needs-check", "resized", "extended", "extend-failed"] as const),
] as const;

const STATE = word(["ACTIVE", "SUSPENDED", "NONE"], "NONE: it has no table yet");

const LOOP = record({
  number: count(),
  dev: text("7:N"),
  file: text("the backing file"),
  offsetBytes: bytes("where in the file the device begins"),
  sizeLimitBytes: bytes("0: to the end of the file"),
  sizeBytes: bytes("size the device has now"),
  readOnly: flag(),
  sectorBytes: bytes("logical sector size"),
  usedBy: list(text(), "names of mapped devices whose tables use it"),
});

const ATTACHMENT = record({
  service: text("what the daemon calls it"),
  device: text("name of the mapped device"),
  path: text("the link, /dev/mapper/NAME"),
  node: text("the block device, /dev/loopN or /dev/nbdN"),
  via: word(["fuse", "nbd"], "what makes the block device"),
  file: text("the image the loop device stands on, or the socket"),
  readOnly: flag(),
  sectorBytes: bytes("logical sector size"),
  sizeBytes: bytes(),
  directIo: flag("past the page cache of the image"),
});

const BLOCK_ENTRIES = list(
  record({
    label: text("a field, a key, a range of blocks"),
    text: text(),
    block: optional(count("metadata block it leads to")),
  }),
);

const REFERENCE_COUNTS = record({
  blocks: count("governed by the space map"),
  used: count("blocks with a count above 0"),
  references: count("sum of all counts"),
  counts: list(record({ count: count(), blocks: count("that have this count") })),
  unknown: count("blocks whose count cannot be read"),
});

const FILL = record({
  usedBytes: bytes(),
  totalBytes: bytes(),
  percent: percent(),
  lowWaterBytes: bytes("free space below which the pool calls for more"),
});

const ATTENTION = record({
  subject: text("the device concerned"),
  message: text(),
  command: optional(text("what mends it")),
});

const COPIED = record({
  bytes: bytes("size of the image"),
  dataBytes: bytes("what was copied; the rest are holes"),
  verified: flag("read back and compared"),
});

const BLOCK_RANGE = record({ begin: count(), end: orNull(count("exclusive; null: to the end")) });

const CANDIDATE = record({
  number: count("from 1"),
  from: word(["superblock", "damaged-superblock", "metadata-snapshot", "found-roots"]),
  block: count("metadata block it begins at"),
  mappingRoot: count("root of the tree of devices"),
  detailsRoot: count("root of the details"),
  time: count("clock of snapshots"),
  transactionId: count(),
  dataBlockSectors: orNull(count("null: no superblock tells, --data-block-size has to")),
  dataBlocks: count(),
  dataBlocksInferred: flag("what the mappings need; no superblock tells the size"),
  whole: flag("nothing is lost"),
  mappings: count("that would be kept"),
  lostMappings: count("as far as the details tell"),
  devices: list(
    record({
      id: count(),
      mappings: count("that would be kept"),
      expected: orNull(count("what its details say")),
      lostMappings: count(),
      lost: list(BLOCK_RANGE, "virtual blocks that cannot be read"),
      moreLost: count("ranges that are not listed"),
      outsideMappings: count("left out: they lead behind the data device"),
      foundAgain: count("mappings in subtrees that nothing pointed at any more"),
      foundRoot: flag("its root was found by its number of mappings"),
      madeDetails: flag("its details are lost and made anew"),
    }),
  ),
  lostDevices: list(record({ id: count(), mappings: orNull(count("what its details say")) })),
  lostIds: list(BLOCK_RANGE, "ids of devices that may have been"),
});

const ERROR = record({
  code: text("as an errno, such as ENOENT; EUSAGE for wrong usage"),
  message: text(),
  hint: orNull(text("what to do about it")),
});

const rows = (columns: Parameters<typeof rowShape>[0]) => list(rowShape(columns), "keys are chosen by -o");

const SPACE_MAP = record({
  nrBlocks: number("blocks it governs"),
  nrAllocated: number("blocks in use"),
  bitmapRoot: number("metadata block"),
  refCountRoot: number("metadata block"),
});

const METADATA_SUPERBLOCK = record(
  {
    flags: count(),
    needsCheck: flag("the pool asked for a check"),
    version: count("of the format"),
    time: count("clock of snapshots"),
    transactionId: number(),
    heldRoot: number("block of the metadata snapshot; 0: none"),
    dataMap: SPACE_MAP,
    metadataMap: SPACE_MAP,
    mappingRoot: number("root of the tree of devices"),
    detailsRoot: number("root of the details"),
    dataBlockSectors: count("size of a data block"),
    metadataBlockSectors: count(),
    metadataNrBlocks: number(),
    compatFlags: count(),
    compatRoFlags: count(),
    incompatFlags: count(),
    uuid: text("in hexadecimal digits"),
  },
  "as it stands there, sound or not; a number above 2^53 is null",
);

const COUNTS = record({
  blocks: count("governed"),
  used: count("with a count above 0"),
  leaked: count("counted, and used by nobody"),
  wrong: count("with another wrong count"),
});

const RANGE = record({ begin: count(), end: count("exclusive") });

const FINDING = record({
  id: text("of the kind of finding, as in udm-metadata(8)"),
  severity: word(["damage", "harmless", "note"]),
  message: text("what was found, against what was wanted"),
  advice: text("what to do"),
  problem: optional(text("what is wrong with the block")),
  kind: optional(text("what the block should be")),
  block: optional(number("metadata block it is about")),
  path: optional(list(count(), "blocks on the way to it, from the superblock on")),
  blocks: optional(RANGE),
  stored: optional(count("count that stands there")),
  owners: optional(count("owners that were found")),
  lostDevices: optional(
    record({ tree: text(), low: number("first id"), high: optional(number("exclusive; without it all from low on")) }),
  ),
  affected: optional(
    list(
      record({
        device: count(),
        held: flag("in the metadata snapshot"),
        begin: number("virtual block"),
        end: optional(number("exclusive; without it to the end of the device")),
        path: list(count(), "blocks from the device's root to the damaged one"),
      }),
    ),
  ),
  moreAffected: optional(count("stretches that are not listed")),
});

const SHAPES = {
  loops: record({ loops: rows(LOOP_COLUMNS) }),
  loop: record({ loop: LOOP }),
  attachment: record({
    attachment: ATTACHMENT,
    mountpoint: optional(text("where it was mounted")),
  }),
  export: record({
    export: record({
      service: text("what the daemon calls it"),
      devices: list(text(), "names of the mapped devices"),
      uris: list(text(), "one for each device"),
      socket: optional(text("path of the socket; none for TCP")),
      readOnly: flag(),
      connections: count("clients that are connected"),
    }),
  }),
  kernelLoop: record({ kernelLoop: record({ path: text("/dev/loopN") }) }),
  pools: record({ pools: rows(POOL_COLUMNS) }),
  pool: record({
    pool: record({
      name: text(),
      formatted: flag("the metadata was made new"),
      thinIds: list(count(), "thin devices that the metadata held before"),
    }),
  }),
  resized: record({
    resized: record({
      dataBytesBefore: bytes(),
      dataBytesAfter: bytes(),
      metadataBytesBefore: bytes(),
      metadataBytesAfter: bytes(),
      overcommitted: list(record({ file: text(), neededBytes: bytes(), freeBytes: bytes() })),
    }),
  }),
  check: record({
    check: record({
      pool: orNull(text("null: all pools")),
      verdict: word(["OK", "WARNING", "CRITICAL", "UNKNOWN"]),
      status: count("exit status: 0 to 3"),
      text: text("what the line says"),
      performance: text("performance data, as Nagios takes it"),
    }),
  }),
  map: record({
    map: record({
      totalBlocks: count("data blocks of the pool"),
      blockBytes: bytes(),
      runs: list(
        record({
          dataBlock: count("first of the run"),
          count: count("blocks of the run"),
          mappings: count("on each block; 0: only the metadata snapshot holds it"),
          held: flag("the metadata snapshot maps it"),
        }),
        "used blocks in order; what is between them is free",
      ),
    }),
  }),
  thins: record({ thins: rows(THIN_COLUMNS) }),
  usage: record({ usage: rows(USAGE_COLUMNS) }),
  runs: record({ runs: rows([...RUN_COLUMNS, ...ONE_BLOCK_COLUMNS]) }),
  extents: record({ extents: rows(DIFF_COLUMNS) }),
  exported: record({ exported: COPIED }),
  imported: record({ imported: COPIED }),
  written: record({ written: bytes("taken from standard input") }),
  trimmed: record({ trimmed: record({ trimmedBytes: bytes() }) }),
  targets: record({
    targets: list(
      record({
        device: text(),
        startSectors: count("sectors of 512 bytes"),
        lengthSectors: count("sectors of 512 bytes"),
        type: text("of the target"),
        params: text("the words behind the type, as dmsetup prints them"),
      }),
      "one for each line of a table",
    ),
  }),
  tables: record({ tables: text("dmsetup's concise form of all tables") }),
  restored: record({ restored: list(text(), "names of the devices that were made") }),
  devices: record({ devices: rows(DEVICE_COLUMNS) }),
  deps: record({ deps: list(text(), "MAJ:MIN of the devices the live table stands on") }),
  answer: record({ answer: orNull(text("what the target answered")) }),
  event: record({ event: count("event number") }),
  blockdevices: record({
    blockdevices: list(any(), "as lsblk prints it: lower-case column names, devices above in children"),
  }),
  status: record({
    status: record({
      pools: list(
        record({
          name: text(),
          state: STATE,
          mode: optional(text("not there when the pool cannot be opened, as most of what follows")),
          blockBytes: optional(bytes()),
          thinCount: optional(count()),
          activeCount: optional(count()),
          provisionedBytes: optional(bytes("sizes of its active thin devices together")),
          data: optional(FILL),
          metadata: optional(FILL),
          attention: list(ATTENTION),
        }),
      ),
      deviceCount: count(),
      loopCount: count(),
      attention: list(ATTENTION),
    }),
  }),
  doctor: record({
    doctor: record({
      isWell: flag("nothing is wrong"),
      machine: list(
        record({ id: text(), isThere: flag(), detail: text(), use: text("what needs it") }),
        "what the machine offers",
      ),
      findings: list(
        record({
          id: text("of the kind of finding"),
          severity: word(["wrong", "note"]),
          subject: text(),
          message: text(),
          fix: optional(text("command that mends it")),
        }),
      ),
    }),
  }),
  batch: record({
    atomic: flag(),
    lines: list(
      record({
        line: count("in the file, from 1"),
        command: list(text(), "its words"),
        status: count("exit status"),
        result: any("the command's own document; null when it printed none"),
        error: orNull(ERROR),
      }),
    ),
    done: count(),
    failed: count(),
    status: count("of the first line that failed"),
  }),
  completion: record({ completion: record({ shell: text(), script: text() }) }),
  schemas: record({
    schemas: list(record({ noun: text(), version: count(), tells: text(), commands: list(text()) })),
  }),
  damage: record({
    damage: record({
      target: text("as it was named"),
      case: text("id of the case"),
      seed: count(),
      hits: list(text(), "what was changed, in words"),
    }),
  }),
  cases: record({
    cases: list(
      record({
        id: text(),
        area: text("the part it is about"),
        what: text("what is wrong afterwards"),
        sealed: flag("all checksums are right"),
      }),
    ),
  }),
  stat: record({
    stat: record({
      superblock: orNull(text("what is wrong with it; null: it is sound")),
      transactionId: optional(count()),
      time: optional(count()),
      heldRoot: optional(count("block of the metadata snapshot; 0: none")),
      dataBlockSectors: optional(count()),
      metadataBlocks: count("of the device"),
      devices: count(),
      trees: list(
        record({
          name: word(["devices", "details", "mappings", "data index", "data overflow", "metadata overflow"]),
          roots: count("trees of this kind"),
          internals: count("internal nodes"),
          leaves: count(),
          depth: count("levels of the deepest"),
          entries: count("in the leaves"),
          capacity: count("entries that the leaves have room for"),
          shared: count("nodes that several pointers lead to"),
          damaged: count("pointers to nodes that cannot be used"),
        }),
      ),
      data: optional(REFERENCE_COUNTS),
      metadata: optional(REFERENCE_COUNTS),
      runs: record({
        runs: count("mappings in a row, each counted once"),
        mappings: count(),
        longest: count(),
        lengths: list(
          record({ from: count(), to: count("one more than the longest"), runs: count(), mappings: count() }),
        ),
      }),
      census: optional(
        record({
          superblocks: count("and copies of them"),
          internals: count("internal nodes"),
          leaves: list(record({ valueBytes: bytes("of a value in them"), blocks: count() })),
          bitmaps: count(),
          indexes: count("index blocks of metadata space maps"),
          others: count("blocks that are empty or something else"),
        }),
      ),
      damaged: flag("something could not be read"),
    }),
  }),
  metadataBlock: record({
    metadataBlock: record({
      block: count(),
      path: list(count(), "blocks on the way to it, this one the last"),
      kind: word(["superblock", "internal node", "leaf", "bitmap", "index block", "empty", "unknown"]),
      title: text("what it is, in words"),
      problems: list(text(), "what is wrong with it"),
      fields: BLOCK_ENTRIES,
      entries: BLOCK_ENTRIES,
      bytes: optional(text("in hexadecimal, with --hex")),
    }),
  }),
  discarded: record({
    discarded: record({
      device: text("the data device, as it was named"),
      stretches: count("runs of free blocks"),
      blocks: count("free data blocks"),
      discardedBytes: bytes(),
      totalBytes: bytes("of the pool's data"),
    }),
  }),
  packed: record({
    packed: record({
      file: text(),
      packedBytes: bytes("size of the file"),
      blocks: count("of the device"),
      sound: count("blocks that are sound as metadata, all in the file"),
      damaged: count("blocks with a wrong checksum that are in the file"),
      leftOut: count("blocks that hold something and are not in the file"),
      unreadable: list(count(), "blocks that could not be read"),
    }),
  }),
  unpacked: record({
    unpacked: record({
      target: text("the file, device or pool that was written"),
      sizeBytes: bytes("of the device that was packed"),
      blocks: count("of the device that was packed"),
      sound: count("blocks that are sound as metadata"),
      damaged: count("blocks that were packed with a wrong checksum"),
    }),
  }),
  repair: record({
    repair: record({
      source: text("as it was named"),
      candidates: list(CANDIDATE, "the first is taken unless another one is chosen"),
      chosen: orNull(count("from 1; null: only looked")),
      made: orNull(
        record({
          target: text("the file, device or pool that was written"),
          backup: orNull(text("packed file of what was there before")),
          devices: count(),
          mappings: count(),
          metadataBlocks: count("in use"),
        }),
      ),
    }),
  }),
  metadataCheck: record({
    metadataCheck: record({
      source: text("as it was named"),
      pool: orNull(text("its name, where udm knows it")),
      metadataSnapshot: orNull(count("block of the metadata snapshot that was looked at; null: the pool itself")),
      verdict: word(["clean", "harmless", "damaged"]),
      superblock: orNull(METADATA_SUPERBLOCK),
      devices: orNull(count("null, as what follows: it was not looked at")),
      mappings: orNull(count()),
      leaves: orNull(count("of the mapping trees")),
      metadataBlocks: count("of the device"),
      metadataCounts: orNull(COUNTS),
      dataCounts: orNull(COUNTS),
      findings: list(FINDING),
      omitted: list(record({ id: text(), count: count() }), "kinds of findings of which not all are listed"),
      leakedBlocks: count(),
      freedBlocks: optional(count("with --auto-repair")),
      clearedNeedsCheck: optional(flag("with --auto-repair or --clear-needs-check-flag")),
    }),
  }),
  dumpLine: record({
    superblock: optional(
      record({
        time: count(),
        transactionId: count(),
        flags: count(),
        version: count(),
        dataBlockSectors: count(),
        nrDataBlocks: count(),
      }),
    ),
    device: optional(
      record({
        id: count(),
        mappedBlocks: count(),
        transactionId: count(),
        creationTime: count(),
        snapshottedTime: count(),
      }),
    ),
    map: optional(list(count(), "virtual block, data block, count, time: a run of the device before")),
  }),
  metadataRestored: record({
    metadataRestored: record({
      target: text("the file, device or pool that was written"),
      devices: count(),
      mappings: count(),
      metadataBlocks: count("in use"),
      time: count("clock of snapshots"),
      transactionId: count(),
      dataBlockSectors: count(),
      nrDataBlocks: count(),
    }),
  }),
  metadataDevices: record({
    metadataDevices: list(
      record({
        id: count(),
        mappedBytes: bytes(),
        exclusiveBytes: bytes("mapped by no other device"),
        sharedBytes: bytes(),
        transactionId: count(),
        creationTime: count(),
        snapshottedTime: count(),
      }),
    ),
  }),
  delta: record({
    delta: record({
      left: count("id of the device, or root of its mappings"),
      right: count(),
      dataBlockSectors: count(),
      dataBlocks: count(),
      runs: list(
        record({
          kind: word(["same", "different", "left-only", "right-only"]),
          virtualBlock: count(),
          count: count(),
          dataBlock: optional(count("where the run begins; of the two that differ each has its own")),
          leftDataBlock: optional(count()),
          rightDataBlock: optional(count()),
        }),
        "in order of virtual blocks",
      ),
    }),
  }),
  reverse: record({
    reverse: list(
      record({ dataBlock: count(), thinId: count("device that maps it"), virtualBlock: count(), count: count() }),
      "in order of data blocks",
    ),
  }),
  metadataSize: record({
    metadataSize: record({
      bytes: bytes("advised"),
      isAboveLimit: flag("more than the format can use"),
      hasBytes: optional(bytes("of a pool that there is, as what follows: size it has")),
      isEnough: optional(flag()),
      maxThins: optional(count("that was reckoned with")),
      poolBytes: optional(bytes("of data that was reckoned with")),
    }),
  }),
  daemon: record({
    daemon: orNull(
      record({
        pid: count(),
        version: text(),
        socket: text(),
        stateDir: text(),
        sinceMs: count("milliseconds since 1970"),
        endsWhenIdle: flag("when nothing is served any more"),
        connections: count(),
        services: list(
          record({
            name: text(),
            kind: text(),
            lasts: word(["connection", "daemon"], "how long it lasts"),
            sinceMs: count("milliseconds since 1970"),
            details: any("what its kind tells of it"),
          }),
        ),
        openPools: list(text(), "pools that something in use stands on"),
        memoryBytes: bytes(),
      }),
    ),
  }),
  daemonEnded: record({ ended: orNull(count("its process; null: none ran")) }),
  watched: record({
    pools: list(
      record({
        name: text(),
        mode: text(),
        needsCheck: flag(),
        dataBytes: bytes(),
        usedDataBytes: bytes(),
        metadataBytes: bytes(),
        usedMetadataBytes: bytes(),
      }),
    ),
    failed: list(text(), "pools that could not be looked at"),
  }),
  poolEvent: record({
    time: text("ISO 8601, UTC"),
    event: word(POOL_EVENTS),
    pool: text(),
    freeBlocks: optional(count()),
    totalBlocks: optional(count()),
    area: optional(word(["data", "metadata"])),
    fromBlocks: optional(count()),
    toBlocks: optional(count()),
    from: optional(text("mode it was in")),
    errorIfNoSpace: optional(flag()),
    dataBytesBefore: optional(bytes()),
    dataBytesAfter: optional(bytes()),
    metadataBytesBefore: optional(bytes()),
    metadataBytesAfter: optional(bytes()),
    reason: optional(text("why it could not be extended")),
  }),
  shrunk: record({
    shrunk: record({
      pool: orNull(text("its name, where it has one")),
      blockBytes: bytes("size of a data block"),
      blocksBefore: count("data blocks the pool had"),
      blocksAfter: count("data blocks it has"),
      movedBlocks: count("data blocks that went elsewhere"),
      movedBytes: bytes(),
      commits: count("transactions that changed mappings; 0 where the metadata was written elsewhere"),
      fileBytes: orNull(bytes("where the data file was cut")),
    }),
  }),
  plan: record({ plan: list(text(), "commands of dmsetup, losetup, truncate and their kin, in order") }),
  done: record({ ok: always() }),
  error: record({ error: ERROR }),
} satisfies Readonly<Record<string, Extract<Shape, { kind: "record" }>>>;

export type Noun = keyof typeof SHAPES;

/** What a command prints with --json, but for the version. */
export type DocumentOf<N extends Noun> = ValueOf<(typeof SHAPES)[N]>;

export interface DocumentEntry {
  readonly tells: string;
  readonly commands: readonly string[];
  readonly shape: Extract<Shape, { kind: "record" }>;
  /** False where others have fixed the form. */
  readonly hasVersion?: boolean;
}

const either = (...verbs: readonly string[]) => verbs.flatMap((verb) => [`thin ${verb}`, `device ${verb}`]);

const TOLD: Readonly<Record<Noun, Omit<DocumentEntry, "shape">>> = {
  loops: { tells: "Loop devices of udm.", commands: ["loop list"] },
  loop: { tells: "One loop device, after a change.", commands: ["loop attach", "loop resize"] },
  attachment: { tells: "A device that was attached, and mounted.", commands: ["attach", "mount"] },
  export: { tells: "Devices that are served over NBD.", commands: ["serve"] },
  kernelLoop: { tells: "A loop device of the kernel.", commands: ["loop attach --kernel"] },
  pools: { tells: "Pools; of the list name and state.", commands: ["pool status", "pool list"] },
  pool: { tells: "A pool that was made.", commands: ["pool create"] },
  resized: { tells: "Sizes of a pool before and after.", commands: ["pool resize"] },
  check: { tells: "How a pool is, for monitoring.", commands: ["pool check"] },
  map: { tells: "What the data blocks of a pool are used for.", commands: ["pool map"] },
  thins: { tells: "Thin devices.", commands: ["thin list"] },
  usage: { tells: "What a set of thin devices costs.", commands: ["thin usage"] },
  runs: {
    tells: "Runs of mapped blocks; sharers, writer, held and path of one block only.",
    commands: ["thin map"],
  },
  extents: { tells: "Where two thin devices differ.", commands: ["thin diff"] },
  exported: { tells: "A device that was copied to a file.", commands: either("export") },
  imported: { tells: "A device that was copied from a file.", commands: either("import") },
  written: { tells: "Bytes that were written.", commands: either("write") },
  trimmed: { tells: "Bytes that were discarded.", commands: either("trim") },
  targets: { tells: "Lines of tables, or of their status.", commands: ["table show", "table status"] },
  tables: { tells: "All tables in one line.", commands: ["table save"] },
  restored: { tells: "Devices that were made.", commands: ["table restore"] },
  devices: { tells: "Mapped devices.", commands: ["device list", "device info"] },
  deps: { tells: "What a device stands on.", commands: ["device deps"] },
  answer: { tells: "What a target answered.", commands: ["device message"] },
  event: { tells: "The event number that ended the wait.", commands: ["device wait"] },
  blockdevices: { tells: "The tree of block devices.", commands: ["lsblk"], hasVersion: false },
  status: { tells: "The dashboard.", commands: ["status"] },
  doctor: { tells: "What the machine offers and what is wrong.", commands: ["doctor"] },
  batch: { tells: "Lines of a batch and what became of each.", commands: ["batch", "shell"] },
  completion: { tells: "A script for a shell.", commands: ["completion"] },
  schemas: { tells: "The documents there are.", commands: ["schema"] },
  damage: { tells: "Metadata that was damaged on purpose.", commands: ["metadata damage"] },
  cases: { tells: "Cases of damage there are.", commands: ["metadata damage --list"] },
  stat: { tells: "Figures of a pool's metadata.", commands: ["metadata stat"] },
  metadataBlock: { tells: "One block of metadata, decoded.", commands: ["metadata explore"] },
  discarded: { tells: "Free data of a pool that was discarded.", commands: ["metadata trim"] },
  packed: { tells: "Metadata that was packed into a file.", commands: ["metadata pack"] },
  unpacked: { tells: "Metadata that was unpacked.", commands: ["metadata unpack"] },
  repair: { tells: "What is left in damaged metadata, and what was made of it.", commands: ["metadata repair"] },
  metadataCheck: { tells: "What was found in a pool's metadata.", commands: ["metadata check"] },
  dumpLine: {
    tells: "One line of a dump: the superblock, a device, or a run of its mappings. One JSON object a line.",
    commands: ["metadata dump"],
    hasVersion: false,
  },
  metadataRestored: { tells: "Metadata that was made from a dump.", commands: ["metadata restore"] },
  metadataDevices: { tells: "Thin devices that metadata knows.", commands: ["metadata ls"] },
  delta: { tells: "In which blocks two thin devices differ.", commands: ["metadata delta"] },
  reverse: { tells: "Which thin devices map some data blocks.", commands: ["metadata rmap"] },
  metadataSize: { tells: "How large metadata has to be.", commands: ["metadata size"] },
  daemon: {
    tells: "The daemon and what it serves; null when none runs.",
    commands: ["daemon start", "daemon status"],
  },
  daemonEnded: { tells: "The daemon that was ended.", commands: ["daemon stop"] },
  watched: { tells: "Pools that were looked at.", commands: ["monitor --once"] },
  poolEvent: {
    tells: "Something that happened to a pool. One JSON object a line.",
    commands: ["events", "monitor"],
    hasVersion: false,
  },
  shrunk: { tells: "A pool that got fewer data blocks.", commands: ["metadata shrink"] },
  plan: { tells: "What a command would do.", commands: ["every command that changes something, with --dry-run"] },
  done: {
    tells: "It was done.",
    commands: [
      ...["loop detach", "pool set", "pool message", "pool remove"],
      ...["create", "snap", "delete", "activate", "deactivate", "resize", "rename", "rollback"].map((v) => `thin ${v}`),
      ...["load", "resume", "suspend", "clear"].map((verb) => `table ${verb}`),
      ...["device rename", "device remove"],
      ...["detach", "umount"],
    ],
  },
  error: {
    tells: "A failure; on standard error, with nothing on standard output.",
    commands: ["every command that fails"],
    hasVersion: false,
  },
};

export const NOUNS = Object.keys(SHAPES) as readonly Noun[];

export const DOCUMENTS = Object.fromEntries(
  NOUNS.map((noun) => [noun, { ...TOLD[noun], shape: SHAPES[noun] }]),
) as unknown as Readonly<Record<Noun, DocumentEntry>>;
