/**
 * One seed for all random tests of a run, so that a run can be repeated: the same by default, `UDM_TEST_SEED` makes
 * others (and `UDM_TEST_SEED=random` a new one each time). fast-check names it with every failure.
 */
import fc from "fast-check";

const DEFAULT_SEED = 1;

const wanted = process.env.UDM_TEST_SEED;
if (wanted !== "random") {
  fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: wanted === undefined ? DEFAULT_SEED : Number(wanted) });
}
