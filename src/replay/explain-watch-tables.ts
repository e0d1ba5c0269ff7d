/** Watches tables: KVM's, of which shadow pages go and SPTEs change, and the guest's, in which KVM writes. */

import { ENTRIES } from '../mmu/shadow-page.ts';
import type { Vcpu } from '../mmu/vcpu.ts';
import { cover } from './cover.ts';
import { gfnText } from './explain-names.ts';
import { type Notes, plainWord, roleWord, type SeenWord } from './explain-seen.ts';

/** Watches the VM's tables. */
export function watchPages(notes: Notes): void {
  const { pages } = notes.machine;
  cover(pages, 'take', (call) => notes.quietly(call));
  cover(pages, 'set', (call: () => void, sptep: number, lo: number, hi: number) => {
    if (notes.isHeard) noteSpte(notes, sptep, lo, hi);
    call();
  });
  cover(pages, 'prepareZap', (call: () => number, sp: { gfn: number; role: number; level: number }) => {
    notes.note('kvm', 'table', `zaps the shadow page of ${gfnText(sp.gfn)} at level ${sp.level}`, roleWord(sp.role));
    return call();
  });
  cover(pages, 'unprotect', (call: () => boolean, gfn: number) => {
    notes.note('kvm', 'table', `zaps whatever shadows ${gfnText(gfn)}, so that it can be written`);
    return call();
  });
  cover(pages, 'syncChildren', (call: () => void, sp: { gfn: number; level: number; unsyncChildren: number }) => {
    const what = sp.unsyncChildren > 0 ? `${sp.unsyncChildren} unsync` : 'nothing unsync';
    notes.note('kvm', 'table', `synchronises what is unsync below the table of ${gfnText(sp.gfn)} (${what})`);
    call();
  });
}

function noteSpte(notes: Notes, sptep: number, lo: number, hi: number): void {
  const { pages } = notes.machine;
  const sp = pages.pageOf(sptep);
  const index = sptep % ENTRIES;
  const was = { lo: pages.lo(sptep) >>> 0, hi: pages.hi(sptep) >>> 0 };
  if (was.lo === lo >>> 0 && was.hi === hi >>> 0) return;
  if (!notes.before.has(sptep)) notes.before.set(sptep, [was.lo, was.hi]);
  const place = `the SPTE of ${gfnText(sp.direct ? sp.gfnAt(index) : -1)} at level ${sp.level}`;
  const where = sp.direct ? place : `SPTE ${index} at level ${sp.level} of the shadow of ${gfnText(sp.gfn)}`;
  const { format } = pages;
  if (lo === 0 && (hi === 0 || (hi | 0) === (format.emptyHi | 0))) {
    notes.note(notes.mmuName, 'table', `empties ${where}`, undefined, { gfn: sp.gfn, role: sp.role });
    return;
  }
  if (format.isPresent(lo) && !format.isLeaf(lo, sp.level)) {
    const child = pages.childOf(lo, hi);
    const does = `makes ${where} lead to the table of ${gfnText(child.gfn)}${child.unsync ? ', which is unsync' : ''}`;
    notes.note(notes.mmuName, 'table', does, roleWord(child.role), { gfn: sp.gfn, role: sp.role });
    return;
  }
  const word: SeenWord = { format: 'spte', lo: lo >>> 0, hi: hi >>> 0, level: sp.level };
  notes.note(notes.mmuName, 'table', `sets ${where}`, word, { gfn: sp.gfn, role: sp.role });
}

/** Watches a guest's memory. */
export function watchMemory(notes: Notes, memory: Vcpu['memory']): void {
  cover(memory, 'writeEntry', (call: () => void, gfn: number, offset: number, lo: number, hi: number) => {
    notes.note(
      'guest memory',
      'table',
      `gets an entry written at gpa 0x${(gfn * 4096 + offset).toString(16)}`,
      plainWord(lo, hi),
    );
    call();
  });
}
