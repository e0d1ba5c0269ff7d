/**
 * Entries, one by one: what each maps is what the host has there, with no more rights than anybody gave
 * (facts/kvm-mmu.md §6.11).
 */

import { adDisabled, guestMode, passthrough, smm } from '../paging/kvm-roles.ts';
import { type Look, nameOf } from './invariants-look.ts';
import { mmioBeside, rightsBeyond } from './invariants-of-guest.ts';
import { pagesOf, type ShadowPage } from './shadow-page.ts';
import { frameOf, SPTE_W } from './spte.ts';

/** 4 KiB frames of a large leaf that are compared with the host's: its first and its last. */
const LARGE_SAMPLES = [0, 1] as const;

/** An entry that is not empty; whether it is a leaf, or leads to a table, for the counts. */
export function checkEntry(look: Look, sp: ShadowPage, index: number, lo: number, hi: number): 'leaf' | 'link' | null {
  const { format } = look.pages;
  if (!format.isPresent(lo)) {
    if (format.isMmio(lo, hi)) checkMmio(look, sp, index, lo, hi);
    else look.entry(sp, index, 'is neither present nor empty');
    return null;
  }
  if (format.isLeaf(lo, sp.level)) {
    checkLeaf(look, sp, index, lo, hi);
    return 'leaf';
  }
  checkLink(look, sp, index, lo, hi);
  return 'link';
}

function checkMmio(look: Look, sp: ShadowPage, index: number, lo: number, hi: number): void {
  const { pages, host } = look;
  const { format } = pages;
  if (format.mmioGenerationOf(lo, hi) !== format.mmioGenerationMask(host.generation)) return;
  const gfn = format.mmioGfnOf(lo, hi);
  if (host.slotOf(gfn, smm(sp.role)) !== null) {
    look.entry(sp, index, `is MMIO, and gfn ${gfn.toString(16)} has a slot`);
  }
  const beside = mmioBeside(pages, look.view, sp, index, gfn);
  if (beside !== null) look.entry(sp, index, beside);
}

function checkLeaf(look: Look, sp: ShadowPage, index: number, lo: number, hi: number): void {
  const { format } = look.pages;
  const writable = (lo & SPTE_W) !== 0;
  const mmuWritable = format.isMmuWritable(lo, hi);
  const hostWritable = format.isHostWritable(lo, hi);
  if (writable && !mmuWritable) look.entry(sp, index, 'is writable, and not MMU-writable');
  if (mmuWritable && !hostWritable) look.entry(sp, index, 'is MMU-writable, and not host-writable');
  if (!sp.tdp) checkListed(look, sp, index);
  checkFrame(look, sp, index, frameOf(lo, hi), hostWritable);
  checkAdType(look, sp, index, hi);
  checkRights(look, sp, index, lo, hi);
}

function checkListed(look: Look, sp: ShadowPage, index: number): void {
  const list = look.pages.rmap.of(sp.gfnAt(index), sp.level, smm(sp.role));
  let count = 0;
  for (const sptep of list) if (sptep === sp.sptep(index)) count++;
  if (count !== 1) look.entry(sp, index, `is ${count} times in its reverse map`);
}

/** The leaf maps what the host has there. */
function checkFrame(look: Look, sp: ShadowPage, index: number, pfn: number, hostWritable: boolean): void {
  const { host } = look;
  const gfn = sp.gfnAt(index);
  const space = smm(sp.role);
  const slot = host.slotOf(gfn, space);
  if (slot === null || slot.invalid) {
    look.entry(sp, index, `maps gfn ${gfn.toString(16)}, which has no slot`);
    return;
  }
  if (hostWritable && slot.readOnly) look.entry(sp, index, 'is host-writable, and its slot is read-only');
  const span = pagesOf(sp.level);
  for (const end of LARGE_SAMPLES) {
    const offset = end * (span - 1);
    const now = host.frameOf(gfn + offset, space);
    if (now !== pfn + offset) {
      look.entry(sp, index, `maps gfn ${(gfn + offset).toString(16)}, under which the host has ${now.toString(16)}`);
      return;
    }
    if (span === 1) return;
  }
}

/** L2's frames must not get into the processor's page-modification log, which is for L1's. */
function checkAdType(look: Look, sp: ShadowPage, index: number, hi: number): void {
  const { config, format } = look.pages;
  const expected = adDisabled(sp.role) || !format.adEnabled ? 1 : config.pml && guestMode(sp.role) ? 2 : 0;
  const type = format.adTypeOf(hi);
  if (type !== expected) look.entry(sp, index, `is of A/D type ${type}, not ${expected}`);
}

function checkRights(look: Look, sp: ShadowPage, index: number, lo: number, hi: number): void {
  const beyond = rightsBeyond(look.pages, look.view, sp, { index, lo, hi });
  if (beyond !== null) look.entry(sp, index, beyond);
}

function checkLink(look: Look, sp: ShadowPage, index: number, lo: number, hi: number): void {
  const child = look.pageAt(frameOf(lo, hi));
  if (child === null) {
    look.entry(sp, index, 'leads to what is no table');
    return;
  }
  if (child.level !== sp.level - 1) look.entry(sp, index, `leads to ${nameOf(child)}`);
  if (child.tdp !== sp.tdp || smm(child.role) !== smm(sp.role) || guestMode(child.role) !== guestMode(sp.role)) {
    look.entry(sp, index, `leads to ${nameOf(child)}, which is of another kind`);
  }
  // Above L1's 4-level table every entry leads to the shadow of that table.
  if (passthrough(sp.role) && child.gfn !== sp.gfn) look.entry(sp, index, `passes through to ${nameOf(child)}`);
  if (look.pages.isObsolete(child)) look.entry(sp, index, `leads to ${nameOf(child)}, which is obsolete`);
  const count = child.parents.filter((sptep) => sptep === sp.sptep(index)).length;
  if (count !== 1) look.entry(sp, index, `is ${count} times among the parents of ${nameOf(child)}`);
  checkRights(look, sp, index, lo, hi);
}
