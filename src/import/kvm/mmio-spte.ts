/** MMIO SPTEs, as far as they can be told without knowing KVM's masks (facts/kvm-6.1.md §6). */

/** An MMIO SPTE of EPT: not MMU-present, writable and executable but not readable. */
export function isEptMmio(spte: bigint): boolean {
  return (spte & 0x807n) === 6n;
}

/** The guest frame of an MMIO SPTE, as far as its low bits tell it. */
export function mmioFrame(spte: bigint): bigint {
  return (spte >> 12n) & 0x3ff_ffffn;
}
