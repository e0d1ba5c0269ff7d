/**
 * Mutants: named historical bugs, put in by a switch (`--mutant m01-inherited-permissions`), each at the one place where
 * the bug was. The number is the row of facts/kvm-mmu.md §10, which has the fix's name and commit.
 */

import { WalkBug } from '../paging/walk-bugs.ts';

export const Mutant = {
  INHERITED_PERMISSIONS: 1,
  AD_ELSEWHERE: 2,
  CHILD_OF_OTHER_GFN: 5,
  CHILD_OF_OTHER_ROLE: 6,
  SYNC_BEFORE_LINK: 11,
  KEEPS_MMU_WRITABLE: 12,
  PROTECT_WITHOUT_FLUSH: 13,
  OLD_WP: 14,
  WP_TOGGLE_WITHOUT_INIT: 15,
  SMAP_NOT_IN_ROLE: 17,
  AC_EXCUSES_IMPLICIT: 18,
  WP0_KEEPS_EXECUTE: 19,
  FETCH_IN_RIGHTS_FAULT: 20,
  NX_SHARED: 22,
  KEY_MASK_GROWS: 25,
  PDPTES_UNCHECKED: 36,
  PDPTES_KEEP_ROOT: 37,
  KEEPS_EMPTY_SPTE: 40,
  TDP_PCID_NOT_FLUSHED: 43,
  PCIDE_KEEPS_ROOTS: 44,
  UNMAP_WITHOUT_FLUSH: 47,
  NX_HUGE_REPLACES_TABLE: 55,
  HUGE_PAGE_STAYS: 56,
  ACCESSED_BEFORE_RIGHTS: 57,
  FETCH_ALWAYS: 58,
} as const;

export interface MutantText {
  /** Row of facts/kvm-mmu.md §10. */
  readonly number: number;
  /** `m01-inherited-permissions`. */
  readonly name: string;
  /** What goes wrong. */
  readonly sentence: string;
  /** Only a guest that is a hypervisor itself can meet it. */
  readonly nested: boolean;
}

function text(number: number, name: string, sentence: string, nested = false): MutantText {
  return { number, name: `m${String(number).padStart(2, '0')}-${name}`, sentence, nested };
}

/** All that there are, by number. */
export const MUTANTS: readonly MutantText[] = [
  text(1, 'inherited-permissions', 'a child table is made for the rights of the whole walk, not for those above it'),
  text(2, 'ad-elsewhere', 'accessed and dirty bits are written to a page found by its place in a mapped file'),
  text(5, 'child-of-other-gfn', 'a child table that is linked is gone on with although it maps another guest frame'),
  text(6, 'child-of-other-role', 'a child table that is linked is gone on with although it has another role'),
  text(11, 'sync-before-link', 'a table is linked without what is unsync in or below it being synchronised'),
  text(12, 'keeps-mmu-writable', 'a frame becomes a table and its SPTE that was read-only stays MMU-writable'),
  text(13, 'protect-without-flush', 'a frame becomes a table, its SPTEs become read-only, and no TLB is flushed'),
  text(14, 'old-wp', 'software walks judge by the CR0.WP that KVM last saw written, not by the one in force'),
  text(15, 'wp-toggle-without-init', 'KVM sees CR0.WP written and does not take it over for its software walks'),
  text(17, 'smap-not-in-role', "CR4.SMAP is no part of a table's role: what was made without it serves with it"),
  text(18, 'ac-excuses-implicit', 'RFLAGS.AC excuses implicit supervisor accesses from SMAP in software walks'),
  text(19, 'wp0-keeps-execute', "a user page that CR0.WP=0 turned into the kernel's own stays executable under SMEP"),
  text(20, 'fetch-in-rights-fault', 'a fault on rights is reported with F although neither NX nor SMEP is in use'),
  text(22, 'nx-shared', 'tables that were made with EFER.NXE in one state serve in the other'),
  text(25, 'key-mask-grows', 'the protection-key mask is never cleared: keys count after CR4.PKE is off'),
  text(36, 'pdptes-unchecked', "PAE roots are allocated before it is known whether a memslot has all PDPTEs' tables"),
  text(37, 'pdptes-keep-root', 'PDPTEs that changed under the same CR3 leave the old root in force'),
  text(40, 'keeps-empty-spte', 'an EPT entry that lost all rights leaves a present SPTE without any', true),
  text(43, 'tdp-pcid-not-flushed', 'an emulated CR3 load flushes no TLB under two-dimensional paging'),
  text(44, 'pcide-keeps-roots', 'CR4.PCIDE is set and previous roots stay, to be reused without being synchronised'),
  text(47, 'unmap-without-flush', 'the TDP MMU unmaps a range for the host and forgets to have TLBs flushed'),
  text(55, 'nx-huge-replaces-table', 'a large page that may not be executed replaces the table of small ones that may'),
  text(56, 'huge-page-stays', 'a frame becomes a table and the large page over it stays writable'),
  text(
    57,
    'accessed-before-rights',
    'software walks set accessed bits and find only then that rights forbid the access',
  ),
  text(58, 'fetch-always', 'software walks report F although neither NX nor SMEP is in use'),
];

/** Those whose place is the software walk. */
const WALK_BUGS: readonly (readonly [mutant: number, bug: number])[] = [
  [Mutant.AD_ELSEWHERE, WalkBug.AD_ELSEWHERE],
  [Mutant.OLD_WP, WalkBug.OLD_WP],
  // Since row 14 was fixed a walk looks for itself, which would hide this one.
  [Mutant.WP_TOGGLE_WITHOUT_INIT, WalkBug.OLD_WP],
  [Mutant.AC_EXCUSES_IMPLICIT, WalkBug.AC_EXCUSES_IMPLICIT],
  [Mutant.FETCH_IN_RIGHTS_FAULT, WalkBug.FETCH_IN_RIGHTS_FAULT],
  [Mutant.KEY_MASK_GROWS, WalkBug.KEY_MASK_GROWS],
  [Mutant.ACCESSED_BEFORE_RIGHTS, WalkBug.ACCESSED_BEFORE_RIGHTS],
  [Mutant.FETCH_ALWAYS, WalkBug.FETCH_ALWAYS],
];

export class Mutants {
  private readonly on: ReadonlySet<number>;

  /** By number; none by default. */
  constructor(on: Iterable<number> = []) {
    this.on = new Set(on);
  }

  has(mutant: number): boolean {
    return this.on.has(mutant);
  }

  /** Bits of `WalkBug`. */
  get walkBugs(): number {
    return WALK_BUGS.reduce((bugs, [mutant, bug]) => (this.has(mutant) ? bugs | bug : bugs), 0);
  }
}
