/** Messages of the thin-pool target as typed values. Source: thin-engine section 9. */
import { StateError } from "../errors/index.js";
import { MAX_DEVICE_ID } from "./device-details.js";

export type PoolMessage =
  | { readonly kind: "createThin"; readonly id: number }
  | { readonly kind: "createSnapshot"; readonly id: number; readonly origin: number }
  | { readonly kind: "delete"; readonly id: number }
  | { readonly kind: "setTransactionId"; readonly from: number; readonly to: number }
  | { readonly kind: "reserveSnapshot" }
  | { readonly kind: "releaseSnapshot" };

const KNOWN = "create_thin, create_snap, delete, set_transaction_id, reserve_metadata_snap, release_metadata_snap";

/** @throws StateError EINVAL with the kernel's words for what is wrong */
export function parsePoolMessage(words: readonly string[]): PoolMessage {
  const [verb = "", ...args] = words;
  if (verb === "") throw invalid("Empty message received", `one of ${KNOWN}`);
  switch (verb.toLowerCase()) {
    case "create_thin":
      wantWords(words, 2);
      return { kind: "createThin", id: parseId(args[0]!) };
    case "create_snap":
      wantWords(words, 3);
      return { kind: "createSnapshot", id: parseId(args[0]!), origin: parseId(args[1]!) };
    case "delete":
      wantWords(words, 2);
      return { kind: "delete", id: parseId(args[0]!) };
    case "set_transaction_id":
      wantWords(words, 3);
      return {
        kind: "setTransactionId",
        from: parseTransaction(args[0]!, "id"),
        to: parseTransaction(args[1]!, "new id"),
      };
    case "reserve_metadata_snap":
      wantWords(words, 1);
      return { kind: "reserveSnapshot" };
    case "release_metadata_snap":
      wantWords(words, 1);
      return { kind: "releaseSnapshot" };
    default:
      throw invalid(`Unrecognised thin pool target message received: ${verb}`, `one of ${KNOWN}`);
  }
}

function wantWords(words: readonly string[], wanted: number): void {
  if (words.length === wanted) return;
  throw invalid(
    `Message received with ${words.length} arguments instead of ${wanted}.`,
    "the message's own word counts",
  );
}

function parseId(text: string): number {
  const id = parseDecimal(text);
  if (id !== undefined && id <= MAX_DEVICE_ID) return id;
  throw invalid(
    `Message received with invalid device id: ${text}`,
    `a device id is a number from 0 to ${MAX_DEVICE_ID}`,
  );
}

function parseTransaction(text: string, what: string): number {
  const id = parseDecimal(text);
  if (id !== undefined && Number.isSafeInteger(id)) return id;
  throw invalid(`set_transaction_id message: Unrecognised ${what} ${text}.`, "a number from 0 to 2^53 - 1");
}

function parseDecimal(text: string): number | undefined {
  return /^\+?\d+$/.test(text) ? Number(text) : undefined;
}

function invalid(message: string, hint: string): StateError {
  return new StateError("EINVAL", message, { hint });
}
