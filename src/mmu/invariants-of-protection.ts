/** Write protection of guest tables, L1's EPT and NPT among them, by whatever maps them (facts/kvm-mmu.md §6.12). */

import { smm } from '../paging/kvm-roles.ts';
import { type Look, nameOf } from './invariants-look.ts';
import { ENTRIES, pagesOf, type ShadowPage } from './shadow-page.ts';
import { frameOf, SPTE_W } from './spte.ts';

/** Nobody can write unnoticed to a guest table of which there is a shadow in step. */
export function checkProtection(look: Look): void {
  const { pages, tdpMmu } = look;
  const { format } = pages;
  const refuse = (sp: ShadowPage, index: number, table: ShadowPage): void => {
    const sptep = sp.sptep(index);
    const lo = pages.lo(sptep);
    if (!format.isPresent(lo) || !format.isLeaf(lo, sp.level)) return;
    if ((lo & SPTE_W) !== 0 || format.isMmuWritable(lo, pages.hi(sptep))) {
      look.entry(sp, index, `can become writable, and ${nameOf(table)} shadows what it maps`);
    }
  };
  for (const table of look.all) {
    if (table.unsync || !pages.hasGptes(table) || pages.isObsolete(table)) continue;
    const space = smm(table.role);
    for (let level = 1; level <= 3; level++) {
      for (const sptep of pages.rmap.of(table.gfn, level, space)) {
        const sp = look.tableOf(sptep);
        if (sp !== null) refuse(sp, sptep % ENTRIES, table);
      }
    }
    for (const root of tdpMmu?.allRoots ?? []) {
      if (smm(root.role) !== space) continue;
      let sp = root;
      for (;;) {
        const index = Math.floor(table.gfn / pagesOf(sp.level)) % ENTRIES;
        refuse(sp, index, table);
        const lo = pages.lo(sp.sptep(index));
        if (!format.isPresent(lo) || format.isLeaf(lo, sp.level)) break;
        const child = look.pageAt(frameOf(lo, pages.hi(sp.sptep(index))));
        if (child === null) break;
        sp = child;
      }
    }
  }
}
