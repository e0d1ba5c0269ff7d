/**
 * Recordings whose guests announce no stores (`d_two`): what memory held is concluded from dumps and from what the
 * guest read. The entries above a leaf come from the next dump, since tables of these guests only grow; an entry that
 * a mark names counts as the mark says.
 */

import { Provenance } from '../../formats/step.ts';
import { frameNumber } from '../known-memory.ts';
import type { Dump } from './dump.ts';
import { entryAddress, entrySize, FRAME_MASK, LARGE, type TableAddress, type TableShape } from './guest-tables.ts';
import type { StepWriter } from './step-writer.ts';

/** The accessed bit of the x86 formats. */
export const ACCESSED = 1n << 5n;

/** An entry of a dump; pages that a dump leaves out are zero. */
export function dumpedEntry(dump: Dump, address: bigint): bigint {
  const page = dump.pages.get(frameNumber(address));
  if (page === undefined) return 0n;
  const word = Number((address & 0xff8n) >> 2n);
  return BigInt(page[word]!) | (BigInt(page[word + 1]!) << 32n);
}

/**
 * Makes the entries above the leaf of `address` known, as `dump`, the next one, has them. The walk stops at `leaf` and
 * where no memory can be, at `endOfMemory` (below an entry with reserved address bits), and takes entries in `told` as
 * they are known.
 */
export function learnPath(
  writer: StepWriter,
  dump: Dump,
  shape: TableShape,
  root: bigint,
  address: bigint,
  leaf: bigint | undefined,
  told: ReadonlySet<bigint>,
  endOfMemory: bigint,
  translate?: TableAddress,
): void {
  const { memory } = writer;
  for (let level = shape.levels; level > 1; level--) {
    const place = entryAddress(memory, shape, root, address, level, translate);
    if (place === undefined || place === leaf || place >= endOfMemory) return;
    const known = memory.read(place, entrySize(shape));
    if (told.has(place)) continue;
    const dumped = dumpedEntry(dump, place);
    if (known !== undefined && (known | ACCESSED) === (dumped | ACCESSED)) continue;
    writer.know(place, 8, dumped & ~ACCESSED, Provenance.INFERRED);
  }
}

/** Hands over every page of tables that `root` reaches, as the dump has it; `done` holds the frames handed over. */
export function imageTables(
  writer: StepWriter,
  dump: Dump,
  shape: TableShape,
  root: bigint,
  done: Set<number>,
  translate: TableAddress = (address) => address,
): void {
  const visit = (named: bigint, level: number): void => {
    const table = translate(named);
    const frame = table === undefined ? -1 : frameNumber(table);
    const words = dump.pages.get(frame);
    if (words === undefined || done.has(frame)) return;
    done.add(frame);
    writer.pageImage(frame, words);
    if (level === 1) return;
    for (let i = 0; i < 512; i++) {
      const entry = BigInt(words[2 * i]!) | (BigInt(words[2 * i + 1]!) << 32n);
      if ((entry & shape.present) !== 0n && (entry & LARGE) === 0n) visit(entry & FRAME_MASK, level - 1);
    }
  };
  visit(root & FRAME_MASK, shape.levels);
}

/** Whether an entry that was read agrees with the one that was known, but for A and D bits that were set meanwhile. */
export function agrees(known: bigint, seen: bigint, setByHardware: bigint): boolean {
  return (known & ~setByHardware) === (seen & ~setByHardware) && (known & setByHardware & ~seen) === 0n;
}
