/**
 * Mutants: named historical bugs, put in by a switch (`--mutant m01-inherited-permissions`), each at the one place where
 * the bug was. The number is the row of facts/kvm-mmu.md §10, which has the fix's name and commit; of a row with a letter
 * (32b) it is 100 more than the row's, and the name has the letter. Rows without a mutant: `NOT-MODELLED.md`.
 */

import { WalkBug } from '../paging/walk-bugs.ts';

export const Mutant = {
  INHERITED_PERMISSIONS: 1,
  AD_ELSEWHERE: 2,
  CHILD_OF_OTHER_GFN: 5,
  CHILD_OF_OTHER_ROLE: 6,
  NPF_ALWAYS_FINAL: 8,
  QUALIFICATION_OF_OTHER_EXIT: 9,
  MISCONFIG_KEEPS_QUALIFICATION: 10,
  SYNC_BEFORE_LINK: 11,
  KEEPS_MMU_WRITABLE: 12,
  PROTECT_WITHOUT_FLUSH: 13,
  OLD_WP: 14,
  WP_TOGGLE_WITHOUT_INIT: 15,
  L2_OLD_WP: 16,
  SMAP_NOT_IN_ROLE: 17,
  AC_EXCUSES_IMPLICIT: 18,
  WP0_KEEPS_EXECUTE: 19,
  FETCH_IN_RIGHTS_FAULT: 20,
  NX_SHARED: 22,
  EPT_READ_IMPLIED: 23,
  QUALIFICATION_ACC_ORDER: 24,
  KEY_MASK_GROWS: 25,
  L2_TABLES_ONLY_READ: 27,
  EPTP_SWITCH_KEEPS_AD: 28,
  TRANSITION_KEEPS_PREVIOUS_ROOTS: 29,
  INVVPID_FREES_L1_ROOTS: 30,
  NEW_VPID_NOT_FLUSHED: 31,
  FLUSHES_VPID01_IN_L2: 32,
  FLUSHES_AFTER_SWITCH: 33,
  NPT_ROOT_LEVEL_OF_L1: 34,
  NO_PASSTHROUGH: 35,
  PDPTES_UNCHECKED: 36,
  PDPTES_KEEP_ROOT: 37,
  GUEST_MODE_NOT_IN_ROLE: 38,
  NESTED_MMIO_CACHE: 39,
  KEEPS_EMPTY_SPTE: 40,
  TDP_PCID_NOT_FLUSHED: 43,
  PCIDE_KEEPS_ROOTS: 44,
  UNMAP_WITHOUT_FLUSH: 47,
  TDP_FAULT_REBUILDS: 48,
  INVVPID_ANY_ADDRESS: 51,
  PFEC_MASK_IGNORED: 54,
  NX_HUGE_REPLACES_TABLE: 55,
  HUGE_PAGE_STAYS: 56,
  ACCESSED_BEFORE_RIGHTS: 57,
  FETCH_ALWAYS: 58,
  L2_WALK_AFTER_EXIT: 59,
  TRANSLATES_IN_GUEST_MODE: 60,
  EARLY_RETURN_BEFORE_FLUSH: 61,
  XU_PRESENCE: 62,
  /** Row 32b. */
  FLUSHES_VPID02_WITHOUT_VPID: 132,
} as const;

export interface MutantText {
  /** Row of facts/kvm-mmu.md §10; 132 for row 32b. */
  readonly number: number;
  /** `m01-inherited-permissions`, `m32b-flushes-vpid02-without-vpid`. */
  readonly name: string;
  /** What goes wrong. */
  readonly sentence: string;
  /** Only a guest that is a hypervisor itself can meet it. */
  readonly nested: boolean;
}

/** What the number of a row with the letter b has more than that of the row without. */
const SECOND_OF_ROW = 100;

function text(number: number, name: string, sentence: string, nested = false): MutantText {
  const row = number > SECOND_OF_ROW ? `${number - SECOND_OF_ROW}b` : String(number).padStart(2, '0');
  return { number, name: `m${row}-${name}`, sentence, nested };
}

/** All that there are, by number. */
export const MUTANTS: readonly MutantText[] = [
  text(1, 'inherited-permissions', 'a child table is made for the rights of the whole walk, not for those above it'),
  text(2, 'ad-elsewhere', 'accessed and dirty bits are written to a page found by its place in a mapped file'),
  text(5, 'child-of-other-gfn', 'a child table that is linked is gone on with although it maps another guest frame'),
  text(6, 'child-of-other-role', 'a child table that is linked is gone on with although it has another role'),
  text(
    8,
    'npf-always-final',
    'a nested page fault that emulation met is always reported as one of the final address',
    true,
  ),
  text(
    9,
    'qualification-of-other-exit',
    'bits 8:7 of a nested EPT violation that emulation met come from whatever exit is being handled',
    true,
  ),
  text(
    10,
    'misconfig-keeps-qualification',
    'a nested EPT misconfiguration is reported with the qualification of the violation before it',
    true,
  ),
  text(11, 'sync-before-link', 'a table is linked without what is unsync in or below it being synchronised'),
  text(12, 'keeps-mmu-writable', 'a frame becomes a table and its SPTE that was read-only stays MMU-writable'),
  text(13, 'protect-without-flush', 'a frame becomes a table, its SPTEs become read-only, and no TLB is flushed'),
  text(14, 'old-wp', 'software walks judge by the CR0.WP that KVM last saw written, not by the one in force'),
  text(15, 'wp-toggle-without-init', 'KVM sees CR0.WP written and does not take it over for its software walks'),
  text(16, 'l2-old-wp', "software walks of L2's tables judge by the CR0.WP that KVM last saw written", true),
  text(17, 'smap-not-in-role', "CR4.SMAP is no part of a table's role: what was made without it serves with it"),
  text(18, 'ac-excuses-implicit', 'RFLAGS.AC excuses implicit supervisor accesses from SMAP in software walks'),
  text(19, 'wp0-keeps-execute', "a user page that CR0.WP=0 turned into the kernel's own stays executable under SMEP"),
  text(20, 'fetch-in-rights-fault', 'a fault on rights is reported with F although neither NX nor SMEP is in use'),
  text(22, 'nx-shared', 'tables that were made with EFER.NXE in one state serve in the other'),
  text(23, 'ept-read-implied', 'an EPT entry that may be executed may be read, whatever its bit 0 says', true),
  text(
    24,
    'qualification-acc-order',
    "bits 5:3 of the qualification of a nested EPT violation are in the order of KVM's own rights",
    true,
  ),
  text(25, 'key-mask-grows', 'the protection-key mask is never cleared: keys count after CR4.PKE is off'),
  text(
    27,
    'l2-tables-only-read',
    "L2's tables are read through EPT or NPT as if accessed bits were never written to them",
    true,
  ),
  text(28, 'eptp-switch-keeps-ad', "after an EPTP switch EPT's A and D bits are used as the EPTP before it said", true),
  text(
    29,
    'transition-keeps-previous-roots',
    'a nested transition that flushes synchronises the current shadow root and no previous one',
    true,
  ),
  text(30, 'invvpid-frees-l1-roots', "INVVPID without EPT lets go of L1's previous roots instead of L2's", true),
  text(31, 'new-vpid-not-flushed', 'L1 enters L2 with another VPID than before, and nothing is flushed', true),
  text(32, 'flushes-vpid01-in-l2', "a guest TLB flush while L2 runs flushes L1's VPID", true),
  text(
    33,
    'flushes-after-switch',
    "a flush that L1 or L2 asked for is made after the switch to the other, in the other's context",
    true,
  ),
  text(34, 'npt-root-level-of-l1', "the shadow of L1's NPT is as deep as L1's table, not as the hardware's", true),
  text(35, 'no-passthrough', "the level above a 4-level NPT of L1 counts as a shadow of L1's root table", true),
  text(36, 'pdptes-unchecked', "PAE roots are allocated before it is known whether a memslot has all PDPTEs' tables"),
  text(37, 'pdptes-keep-root', 'PDPTEs that changed under the same CR3 leave the old root in force'),
  text(38, 'guest-mode-not-in-role', 'L1 and L2 without nested paging share tables', true),
  text(39, 'nested-mmio-cache', "an address of L2's is looked up in the MMIO cache, which knows L1's", true),
  text(40, 'keeps-empty-spte', 'an EPT entry that lost all rights leaves a present SPTE without any', true),
  text(43, 'tdp-pcid-not-flushed', 'an emulated CR3 load flushes no TLB under two-dimensional paging'),
  text(44, 'pcide-keeps-roots', 'CR4.PCIDE is set and previous roots stay, to be reused without being synchronised'),
  text(47, 'unmap-without-flush', 'the TDP MMU unmaps a range for the host and forgets to have TLBs flushed'),
  text(
    48,
    'tdp-fault-rebuilds',
    "a fault that the TDP MMU's SPTE would let through builds the SPTE anew (6.1 does; only profile 7.3 differs)",
    true,
  ),
  text(51, 'invvpid-any-address', 'INVVPID of an individual address takes non-canonical ones', true),
  text(
    54,
    'pfec-mask-ignored',
    'whether L1 intercepts a #PF of L2 is decided without the error-code mask and match',
    true,
  ),
  text(55, 'nx-huge-replaces-table', 'a large page that may not be executed replaces the table of small ones that may'),
  text(56, 'huge-page-stays', 'a frame becomes a table and the large page over it stays writable'),
  text(
    57,
    'accessed-before-rights',
    'software walks set accessed bits and find only then that rights forbid the access',
  ),
  text(58, 'fetch-always', 'software walks report F although neither NX nor SMEP is in use'),
  text(
    59,
    'l2-walk-after-exit',
    "after an exit to L1 its tables are walked by L2's paging mode until the mode is looked at again",
    true,
  ),
  text(60, 'translates-in-guest-mode', 'addresses of an L2 without nested paging go through a second stage', true),
  text(61, 'early-return-before-flush', 'a #PF that KVM gives to L2 leaves the address in the TLB', true),
  text(
    62,
    'xu-presence',
    'bit 10 of an EPT entry makes it present without mode-based execution, and does not with it',
    true,
  ),
  text(
    132,
    'flushes-vpid02-without-vpid',
    'a guest TLB flush while L2 runs without a VPID flushes the VPID that L2 does not use',
    true,
  ),
];

/** Those whose place is the software walk. */
const WALK_BUGS: readonly (readonly [mutant: number, bug: number])[] = [
  [Mutant.AD_ELSEWHERE, WalkBug.AD_ELSEWHERE],
  [Mutant.OLD_WP, WalkBug.OLD_WP],
  // Since row 14 was fixed a walk looks for itself, which would hide this one.
  [Mutant.WP_TOGGLE_WITHOUT_INIT, WalkBug.OLD_WP],
  [Mutant.L2_OLD_WP, WalkBug.L2_OLD_WP],
  [Mutant.AC_EXCUSES_IMPLICIT, WalkBug.AC_EXCUSES_IMPLICIT],
  [Mutant.FETCH_IN_RIGHTS_FAULT, WalkBug.FETCH_IN_RIGHTS_FAULT],
  [Mutant.EPT_READ_IMPLIED, WalkBug.EPT_READ_IMPLIED],
  [Mutant.QUALIFICATION_ACC_ORDER, WalkBug.QUALIFICATION_ACC_ORDER],
  [Mutant.KEY_MASK_GROWS, WalkBug.KEY_MASK_GROWS],
  [Mutant.L2_TABLES_ONLY_READ, WalkBug.L2_TABLES_ONLY_READ],
  [Mutant.ACCESSED_BEFORE_RIGHTS, WalkBug.ACCESSED_BEFORE_RIGHTS],
  [Mutant.FETCH_ALWAYS, WalkBug.FETCH_ALWAYS],
  [Mutant.XU_PRESENCE, WalkBug.XU_PRESENCE],
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
