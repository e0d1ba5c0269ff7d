/**
 * An access as walks see it: one small integer. The low bits stand where the page-fault error code has them
 * (SDM vol. 3A 4.7), so that the error code and the index of the permission bitmap fall out by masking.
 */

export const WRITE = 1 << 1;
/** User-mode access. */
export const USER = 1 << 2;
/** SMAP does not apply: RFLAGS.AC is set and the access is explicit. Takes the place of RSVD, never an input. */
export const NOT_SMAP = 1 << 3;
export const FETCH = 1 << 4;
export const SHADOW_STACK = 1 << 6;
/** Read-modify-write; WRITE is set as well. */
export const RMW = 1 << 8;

// What a second-stage translation is asked for, beside the above:
/** A paging-structure entry, not the final address. */
export const OF_TABLE = 1 << 10;
/** No guest-linear address goes with it. */
export const NO_LINEAR = 1 << 11;
/** Rights of the guest's own entries combined so far: user page, writable, no-execute. */
export const GUEST_USER = 1 << 12;
export const GUEST_WRITABLE = 1 << 13;
export const GUEST_NX = 1 << 14;
/** The second stage must not write accessed and dirty bits: judging what could have been. */
export const NO_AD = 1 << 15;

/** Bits that index the permission bitmap once shifted right by one. */
export const PERMISSION_BITS = WRITE | USER | NOT_SMAP | FETCH;

// Page-fault error code bits beyond those above.
export const PFEC_P = 1 << 0;
export const PFEC_RSVD = 1 << 3;
export const PFEC_PK = 1 << 5;
export const PFEC_SS = 1 << 6;
