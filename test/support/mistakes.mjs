// Loaded into a daemon before it starts: on SIGUSR2 it makes the mistake that the file UDM_TEST_MISTAKE names, once. What it
// stands for is a mistake in our own code, at any place: an exception where nobody thought of one.
import { readFileSync } from "node:fs";

/** The `after`-th call of a method from now on throws, those behind it do not. */
function failOnce(prototype, name, after) {
  const real = prototype[name];
  let calls = 0;
  prototype[name] = function (...args) {
    if (calls++ < after) return real.apply(this, args);
    prototype[name] = real;
    throw new TypeError(`made in ${name}`);
  };
}

const TYPED = Object.getPrototypeOf(Uint8Array.prototype);
const KINDS = {
  setUint32: (after) => failOnce(DataView.prototype, "setUint32", after),
  getUint32: (after) => failOnce(DataView.prototype, "getUint32", after),
  setUint16: (after) => failOnce(DataView.prototype, "setUint16", after),
  set: (after) => failOnce(TYPED, "set", after),
  subarray: (after) => failOnce(TYPED, "subarray", after),
  map: (after) => failOnce(Map.prototype, "get", after),
  timer: () =>
    setTimeout(() => {
      throw new TypeError("made in timer");
    }),
  rejection: () => Promise.reject(new TypeError("made in rejection")),
};

process.on("SIGUSR2", () => {
  const { kind, after } = JSON.parse(readFileSync(process.env.UDM_TEST_MISTAKE, "utf8"));
  KINDS[kind](after);
});
