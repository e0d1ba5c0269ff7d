/**
 * Historical bugs of KVM's software walk, one bit each (facts/kvm-mmu.md §10): a walk that is given some of them goes
 * wrong as that kernel did. `mmu/mutants.ts` names them; without a mutant there are none.
 */

export const WalkBug = {
  /** Row 2: an accessed or dirty bit is written to a page found by an offset taken for a frame number. */
  AD_ELSEWHERE: 1 << 0,
  /** Rows 14 and 15: CR0.WP is what it was when KVM last saw it written. */
  OLD_WP: 1 << 1,
  /** Row 18: RFLAGS.AC excuses implicit supervisor accesses from SMAP. */
  AC_EXCUSES_IMPLICIT: 1 << 2,
  /** Row 20: what rights forbid is reported with all bits of the access, F among them. */
  FETCH_IN_RIGHTS_FAULT: 1 << 3,
  /** Row 25: bits of the protection-key mask are only ever added. */
  KEY_MASK_GROWS: 1 << 4,
  /** Row 57: accessed bits are set before rights are judged. */
  ACCESSED_BEFORE_RIGHTS: 1 << 5,
  /** Row 58: F is reported whether the guest can know it or not. */
  FETCH_ALWAYS: 1 << 6,
  /** Row 16: of L2's tables, walked through a second stage, CR0.WP is what it was when KVM last saw it written. */
  L2_OLD_WP: 1 << 7,
  /** Row 23: EPT's bit 0 is not looked at: what is present may be read. */
  EPT_READ_IMPLIED: 1 << 8,
  /** Row 24: the rights in an EPT qualification (bits 5:3) stand in the order of `ACC_*`, not in EPT's. */
  QUALIFICATION_ACC_ORDER: 1 << 9,
  /** Row 27: tables are read through the second stage without write intent, although A and D bits will be set. */
  L2_TABLES_ONLY_READ: 1 << 10,
  /** Row 62: EPT's bit 10 counts for presence just where it does not. */
  XU_PRESENCE: 1 << 11,
} as const;
