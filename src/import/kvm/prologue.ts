/**
 * What holds before the guest is entered for the first time: slots, registers, memory that nobody announces, and what
 * the host has under it. Of recordings with side files only.
 */

import { fromBigInt } from '../../bits/word64.ts';
import { Reg } from '../../formats/registers.ts';
import {
  HostPage,
  PROVENANCE_SHIFT,
  Provenance,
  STORE_KNOWLEDGE,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../formats/step.ts';
import type { Dump } from '../kvm-guest/dump.ts';
import type { MarkOf } from '../kvm-guest/marks.ts';
import type { GuestRecording } from '../kvm-guest/recording.ts';
import { type Draft, draft, rareDraft, registerDraft } from './draft.ts';
import type { Parts } from './parts.ts';
import { type BackedSlot, memslot, slotsOf } from './slots.ts';

/** Protected mode without paging: how the VMM starts a guest. */
const START_CR0 = 0x11n;
/** Where the VMM puts the guest's code, and its own mailbox (rig/kvm/src/vmm.c). */
const BLOB = 0x10_0000n;
const MAILBOX = 0x7000n;
/** Words of a page that are told one by one rather than as a page. */
const FEW_WORDS = 16;
const ACCESSED_DIRTY = 0x60n;
const PRESENT = 1n;
const FRAME = 0xf_ffff_ffff_f000n;
const LARGE = 0x80n;

/** KVM's own slot for the TSS of real mode, where VMX needs one (KVM_SET_TSS_ADDR with the rig's address). */
const TSS_SLOT: BackedSlot = {
  slot: 32_764,
  gpa: 0xfffb_d000n,
  size: 0x3000n,
  readOnly: false,
  dirtyLog: false,
  hva: 0n,
};

/** `parameters`: `module.name=value`. */
export function prologue(parts: Parts, recording: GuestRecording, parameters: readonly string[]): Draft[] {
  const dump = recording.dumps.values().next().value;
  const start = recording.marks.find((mark): mark is MarkOf<'vmmStart'> => mark.kind === 'vmmStart');
  const result: Draft[] = [];
  if (start !== undefined) {
    result.push(registerDraft(StepKind.REGISTER_SET, Reg.CR0, START_CR0, Provenance.INFERRED, 0));
    parts.registers.set(Reg.CR0, START_CR0);
  }
  if (dump === undefined) {
    parts.receipt.note('memory slots not known');
    return result;
  }
  const slots = slotsOf(dump);
  if (parameters.includes('kvm_intel.unrestricted_guest=N')) {
    result.push(rareDraft(memslot('create', TSS_SLOT), Provenance.INFERRED, 0));
  }
  for (const slot of slots) result.push(rareDraft(memslot('create', slot), Provenance.DUMP, 0));
  parts.residency.slots = slots;
  result.push(...memory(parts, recording, dump), ...resident(parts, dump, start));
  return result;
}

/** Pages that no mark tells anything of, as the first dump has them. */
function memory(parts: Parts, recording: GuestRecording, dump: Dump): Draft[] {
  const announced = new Set<number>();
  for (const mark of recording.marks) {
    if (mark.kind === 'store' || mark.kind === 'fill' || mark.kind === 'clearPage') {
      announced.add(Number(mark.address >> 12n));
    }
  }
  const boot = recording.marks.find((mark) => mark.kind === 'boot');
  const tables = boot === undefined ? new Set<number>() : tablesOf(dump, boot.cr3, boot.levels);
  const result: Draft[] = [];
  for (const [frame, words] of dump.pages) {
    if (announced.has(frame)) continue;
    const found = tables.has(frame) ? withoutAccessedDirty(words) : words;
    parts.memory.setPage(frame, found);
    const used = wordsUsed(found);
    if (used.length > FEW_WORDS) {
      const address = fromBigInt(BigInt(frame) << 12n);
      result.push(rareDraft({ kind: 'page-image', address, words: found }, Provenance.DUMP, 0));
      continue;
    }
    for (const index of used) {
      const value = BigInt(found[2 * index]!) | (BigInt(found[2 * index + 1]!) << 32n);
      const op = StepKind.STORE | (Provenance.DUMP << PROVENANCE_SHIFT) | (8 << STORE_SIZE_SHIFT) | STORE_KNOWLEDGE;
      result.push(draft(op, (BigInt(frame) << 12n) + BigInt(8 * index), value, 0));
    }
  }
  return result;
}

/** Indices of the words of 64 bits that are not zero. */
function wordsUsed(words: Uint32Array): number[] {
  const used: number[] = [];
  for (let i = 0; i < 512; i++) if ((words[2 * i]! | words[2 * i + 1]!) !== 0) used.push(i);
  return used;
}

/** Frames of the tables below `root` that a dump has, of formats with entries of eight bytes. */
function tablesOf(dump: Dump, root: bigint, levels: number): Set<number> {
  const frames = new Set<number>();
  const visit = (table: bigint, level: number): void => {
    const frame = Number(table >> 12n);
    const words = dump.pages.get(frame);
    if (words === undefined || frames.has(frame)) return;
    frames.add(frame);
    if (level === 1) return;
    for (let i = 0; i < 512; i++) {
      const entry = BigInt(words[2 * i]!) | (BigInt(words[2 * i + 1]!) << 32n);
      if ((entry & PRESENT) !== 0n && (entry & LARGE) === 0n) visit(entry & FRAME, level - 1);
    }
  };
  visit(root & FRAME, levels);
  return frames;
}

/** The dump is later than the tables: accessed and dirty bits were set in between, which walks will tell. */
function withoutAccessedDirty(words: Uint32Array): Uint32Array {
  return words.map((word, i) => (i % 2 === 0 ? Number(BigInt(word) & ~ACCESSED_DIRTY) : word));
}

/** Pages that the VMM wrote before the guest ran. */
function resident(parts: Parts, dump: Dump, start: MarkOf<'vmmStart'> | undefined): Draft[] {
  const frames = new Set<bigint>();
  if (start !== undefined) {
    frames.add(MAILBOX >> 12n);
    for (let at = BLOB; at < BLOB + BigInt(start.bytes); at += 0x1000n) frames.add(at >> 12n);
  }
  // The guest keeps to its first slot until then: what others hold came from the VMM.
  const [first] = dump.slots;
  for (const frame of dump.pages.keys()) {
    const address = BigInt(frame) << 12n;
    if (first === undefined || address < first.gpa || address >= first.gpa + first.size) frames.add(BigInt(frame));
  }
  const sorted = [...frames].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  return parts.residency.declare(sorted, HostPage.WRITABLE, 0);
}
