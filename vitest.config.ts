import { defineConfig } from "vitest/config";

const shared = {
  testTimeout: 120_000,
  hookTimeout: 120_000,
  pool: "forks" as const,
  setupFiles: ["test/support/seed.ts"],
};

/**
 * What is run through a daemon each time; the long run takes all of test/cli. What cannot hold there skips itself, by name:
 * tests that start, kill or look at daemons themselves (daemon, daemon-kill, fio, fio-kill, mistakes, killed, same-output), or
 * hold the lock against commands (together), and looks of other programs at files of a pool that the daemon may have open (thin_check).
 */
const THROUGH_DAEMON = [
  ...["main-job", "devices", "json", "dry-run", "inspection"],
  ...["serve", "monitor", "shell", "streams", "terminal"],
].map((name) => `test/cli/${name}.test.ts`);

/**
 * unit: the library, in process. cli: the built program, real files, a full state dir. kernel: a guest with a real
 * device-mapper. long: the same rules at a size that does not fit a coffee break.
 */
export default defineConfig({
  test: {
    poolOptions: { forks: { maxForks: 2, minForks: 1 } },
    projects: [
      {
        test: {
          ...shared,
          name: "unit",
          include: ["test/**/*.test.ts"],
          exclude: ["test/kernel/**", "test/cli/**", "test/scripts/**"],
        },
      },
      {
        test: {
          ...shared,
          name: "cli",
          include: ["test/cli/**/*.test.ts", "test/scripts/**/*.test.ts"],
          globalSetup: ["test/cli/build.ts"],
        },
      },
      {
        // Once more through a daemon: the same output, messages and statuses.
        test: {
          ...shared,
          name: "daemon",
          env: { UDM_TEST_DAEMON: "1" },
          include: process.env.UDM_TEST_LONG === undefined ? THROUGH_DAEMON : ["test/cli/**/*.test.ts"],
          globalSetup: ["test/cli/build.ts"],
        },
      },
      {
        test: {
          ...shared,
          name: "kernel",
          include: ["test/kernel/**/*.test.ts"],
          testTimeout: 1_200_000,
          hookTimeout: 1_200_000,
          globalSetup: ["test/cli/build.ts"],
          poolOptions: { forks: { singleFork: true } },
        },
      },
      { test: { ...shared, name: "long", include: ["test/**/*.long.ts"], testTimeout: 7_200_000 } },
    ],
  },
});
