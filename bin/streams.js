// The streams of a program, and what becomes of its status when they do not take what it prints.

/** @param name the program's, for the message */
export function programStreams(name) {
  const { stdout, stderr } = process;
  const streams = {
    // Node makes it non-blocking for whoever shares it when it is first looked at, `while read` around us for one.
    get stdin() {
      return process.stdin;
    },
    stdout,
    stderr,
  };
  let failure;
  let isOver = false;
  // Whoever takes the output for whole must not take the status for success.
  const statusFor = (status) => {
    if (failure === undefined || status !== 0) return status;
    stderr.write(
      `${name}: standard output: ${reasonOf(failure)}\nhint: what the command did is done, what it told is lost\n`,
    );
    return 1;
  };
  for (const stream of [stdout, stderr]) {
    stream.on("error", (error) => {
      // A reader that went away (`udm lsblk | head -1`) is no failure of ours; main ends what was being written.
      if (error.code === "EPIPE" || failure !== undefined) return;
      failure = error;
      if (isOver) process.exitCode = statusFor(process.exitCode);
    });
  }
  /** Of a program that has ended with this status; what is written late is heard of all the same. */
  const end = (status) => {
    isOver = true;
    return statusFor(status);
  };
  return { streams, end };
}

/** `no space left on device` of `ENOSPC: no space left on device, write`. */
function reasonOf({ message }) {
  return /^[A-Z]+: (.*), \w+$/.exec(message)?.[1] ?? message;
}
