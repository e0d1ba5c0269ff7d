/** What tables know of each other: reverse map, parents, marks of what is unsync below (facts/kvm-6.1.md §2.5, §2.7, §2.8). */

import { smm } from '../paging/kvm-roles.ts';
import { type Look, nameOf } from './invariants-look.ts';
import { ENTRIES } from './shadow-page.ts';
import { frameOf } from './spte.ts';

/** Reads the reverse map again only when it has changed. */
export class ReverseMapCheck {
  /** `changes` of the reverse map when it was found in order. */
  private changes = -1;

  /** `leaves`: present leaves of tables of the legacy MMU. */
  check(look: Look, leaves: number): void {
    const { pages } = look;
    const { format } = pages;
    const { rmap } = pages;
    // What is listed are leaves, each in the one list that is its own: equally many means the same.
    if (rmap.size !== leaves) look.say(`${leaves} leaves, and ${rmap.size} entries in the reverse map`);
    if (rmap.changes === this.changes) return;
    const before = look.found.length;
    for (const { level, addressSpace, gfn, list } of pages.rmap.entries()) {
      const name = (): string => `the reverse map of gfn ${gfn.toString(16)}, level ${level}`;
      if (list.length === 0) look.say(`${name()} is an empty list`);
      for (const sptep of list) {
        const sp = look.tableOf(sptep);
        if (sp === null || sp.tdp) {
          look.say(`${name()} has an entry of no table`);
          continue;
        }
        const index = sptep % ENTRIES;
        const lo = pages.lo(sptep);
        if (!format.isPresent(lo) || !format.isLeaf(lo, sp.level))
          look.entry(sp, index, `is no leaf, and in ${name()}`);
        if (sp.level !== level || sp.gfnAt(index) !== gfn || smm(sp.role) !== addressSpace) {
          look.entry(sp, index, `maps gfn ${sp.gfnAt(index).toString(16)}, and is in ${name()}`);
        }
      }
    }
    if (look.found.length === before) this.changes = rmap.changes;
  }
}

/** `links`: present entries that lead to tables. */
export function checkParents(look: Look, links: number): void {
  const { pages } = look;
  const { format } = pages;
  let count = 0;
  for (const sp of look.all) {
    count += sp.parents.length;
    if (sp.parents.length > 0 && pages.isObsolete(sp)) look.say(`${nameOf(sp)} is obsolete, and has parents`);
    for (const sptep of sp.parents) {
      const parent = look.tableOf(sptep);
      const lo = parent === null ? 0 : pages.lo(sptep);
      const leads = parent !== null && format.isPresent(lo) && !format.isLeaf(lo, parent.level);
      if (!leads || frameOf(lo, pages.hi(sptep)) !== sp.frame) {
        look.say(`${nameOf(sp)} has a parent entry that does not lead to it`);
      }
    }
    if (sp.tdp && sp.parents.length + (sp.rootCount > 0 ? 1 : 0) !== 1) {
      look.say(`${nameOf(sp)} of the TDP MMU has ${sp.parents.length} parents and ${sp.rootCount} holders`);
    }
  }
  if (count !== links) look.say(`${links} entries lead to tables, which have ${count} parents`);
}

export function checkUnsync(look: Look): void {
  const { pages } = look;
  for (const sp of look.all) {
    if (sp.unsync && (sp.level !== 1 || !pages.hasGptes(sp))) look.say(`${nameOf(sp)} is unsync`);
    let set = 0;
    for (const word of sp.unsyncBits) for (let bits = word; bits !== 0; bits &= bits - 1) set++;
    if (set !== sp.unsyncChildren) {
      look.say(`${nameOf(sp)} counts ${sp.unsyncChildren} unsync children and has ${set} marked`);
    }
    if (!sp.unsync && sp.unsyncChildren === 0) continue;
    for (const sptep of sp.parents) {
      const parent = look.tableOf(sptep);
      if (parent !== null && !parent.hasUnsyncBit(sptep % ENTRIES)) {
        look.entry(parent, sptep % ENTRIES, `is not marked, and ${nameOf(sp)} is unsync or has unsync children`);
      }
    }
  }
}
