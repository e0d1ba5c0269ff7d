/** Bits of the role word that are the same in all layouts (facts/kvm-mmu.md §2.1). */

export const Role = { LEVEL: 0xf, FOUR_BYTES: 1 << 4, DIRECT: 1 << 7, AD_DISABLED: 1 << 16 } as const;
