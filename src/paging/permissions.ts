/**
 * Which rights an access needs: the permission bitmap and the protection-key mask, both looked up with the access's
 * own error-code bits (facts/kvm-mmu.md §3). The rules are those of SDM vol. 3A 4.6 and 29.3.3, APM vol. 2 5.6.
 */

/** Rights of an entry, 4 bits. For EPT, USER means execute from user pages and EXEC from supervisor pages (MBEC). */
export const ACC_READ = 1;
export const ACC_WRITE = 2;
export const ACC_USER = 4;
export const ACC_EXEC = 8;

export interface PermissionRules {
  /** A second-stage table. */
  readonly tdp: boolean;
  /** Entries in EPT format. */
  readonly ept: boolean;
  /** CR4.SMEP; for EPT: mode-based execute control; for NPT: GMET. */
  readonly smep: boolean;
  /** CR4.SMAP. */
  readonly smap: boolean;
  /** CR0.WP. */
  readonly wp: boolean;
  /** EFER.NXE. */
  readonly nx: boolean;
}

/**
 * 16 sets of 16 bits: bit `rights` of element `(error code bits 4:1)` says that the access faults. Error-code bit 3
 * (RSVD, never an input) stands for "SMAP does not apply".
 */
export function permissionBitmap(rules: PermissionRules): Uint16Array {
  const bitmap = new Uint16Array(16);
  const gmet = rules.tdp && !rules.ept && rules.smep;
  for (let index = 0; index < 16; index++) {
    const write = (index & 1) !== 0;
    const user = (index & 2) !== 0;
    const smapApplies = (index & 4) === 0;
    const fetch = (index & 8) !== 0;
    let faults = 0;
    for (let rights = 0; rights < 16; rights++) {
      const userPage = (rights & ACC_USER) !== 0;
      let fault = !write && !fetch && (rights & ACC_READ) === 0;
      if (write && (rights & ACC_WRITE) === 0) fault ||= rules.ept || rules.wp || user;
      if (rules.ept) {
        if (fetch) fault ||= (rights & (rules.smep && user ? ACC_USER : ACC_EXEC)) === 0;
      } else {
        if (user && !userPage) fault ||= !gmet;
        if (fetch && rules.nx) fault ||= (rights & ACC_EXEC) === 0;
        if (fetch && !user && userPage) fault ||= rules.smep;
        if (!fetch && !user && userPage && smapApplies) fault ||= rules.smap;
      }
      if (fault) faults |= 1 << rights;
    }
    bitmap[index] = faults;
  }
  return bitmap;
}

/**
 * Which of a key's two bits (0: access disabled, 1: write disabled) count: 16 fields of 2 bits, the field at bit
 * offset `error code bits 4:1, bit 3 meaning "user page"`. `userPages`: PKRU (SDM vol. 3A 4.6.2); otherwise PKRS.
 */
export function protectionKeyMask(wp: boolean, userPages: boolean): number {
  let mask = 0;
  for (let offset = 0; offset < 32; offset += 2) {
    const write = (offset & 2) !== 0;
    const user = (offset & 4) !== 0;
    const userPage = (offset & 8) !== 0;
    const fetch = (offset & 16) !== 0;
    if (fetch || userPage !== userPages) continue;
    const checkAccess = 1;
    // For supervisor pages CR0.WP decides whoever writes; a user's write to a user page always counts.
    const checkWrite = write && (wp || (user && userPages)) ? 2 : 0;
    mask |= (checkAccess | checkWrite) << offset;
  }
  return mask >>> 0;
}
