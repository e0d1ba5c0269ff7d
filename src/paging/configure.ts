/**
 * From registers to walks: which tables `cpuWalk` and `tdpWalk` read, and under which rules.
 *
 * Page formats depend on a few mode bits only, so each combination is built once and shared.
 */

import {
  CR0_PG,
  CR0_WP,
  CR4_LA57,
  CR4_PAE,
  CR4_PKE,
  CR4_PKS,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_NXE,
  EPTP_AD,
  GuestMode,
  NESTED_GMET,
  NESTED_NP_ENABLE,
  Reg,
  SECONDARY_EPT,
  SECONDARY_MBEC,
  SECONDARY_PML,
} from '../formats/registers.ts';
import type { PageWalk } from './page-walk.ts';
import { type PermissionRules, permissionBitmap, protectionKeyMask } from './permissions.ts';
import {
  eptKindsAt,
  type ReservedMasks,
  reserved32,
  reservedEpt,
  reservedLongMode,
  reservedPae,
} from './reserved-bits.ts';

/** What paging needs to know of the processor; from the trace's header. */
export interface PagingFeatures {
  readonly amd: boolean;
  readonly maxphyaddr: number;
  readonly pse36: boolean;
  readonly page1g: boolean;
  /** IA32_VMX_EPT_VPID_CAP bits 0, 16, 17 and 22 (SDM vol. 3D A.10). */
  readonly eptExecuteOnly: boolean;
  readonly ept2m: boolean;
  readonly ept1g: boolean;
  readonly eptAdvancedInfo: boolean;
}

const bitmaps = new Map<number, Uint16Array>();

function sharedBitmap(rules: PermissionRules): Uint16Array {
  const key =
    (rules.tdp ? 1 : 0) |
    (rules.ept ? 2 : 0) |
    (rules.smep ? 4 : 0) |
    (rules.smap ? 8 : 0) |
    (rules.wp ? 16 : 0) |
    (rules.nx ? 32 : 0);
  let bitmap = bitmaps.get(key);
  if (bitmap === undefined) {
    bitmap = permissionBitmap(rules);
    bitmaps.set(key, bitmap);
  }
  return bitmap;
}

const masks = new Map<string, ReservedMasks>();

function sharedMasks(key: string, build: () => ReservedMasks): ReservedMasks {
  let found = masks.get(key);
  if (found === undefined) {
    found = build();
    masks.set(key, found);
  }
  return found;
}

/** Level of the root table under these mode bits (facts/kvm-mmu.md §2.3 step 4); 0 = no paging. */
export function rootLevelOf(cr0: number, cr4: number, efer: number): number {
  if ((cr0 & CR0_PG) === 0) return 0;
  if ((efer & EFER_LMA) !== 0) return (cr4 & CR4_LA57) !== 0 ? 5 : 4;
  return (cr4 & CR4_PAE) !== 0 ? 3 : 2;
}

function configureX86(
  walk: PageWalk,
  features: PagingFeatures,
  mode: { cr0: number; cr4: number; efer: number; rootLo: number; rootHi: number },
  rules: { tdp: boolean; smep: boolean; smap: boolean; wp: boolean },
): void {
  const level = rootLevelOf(mode.cr0, mode.cr4, mode.efer);
  walk.rootLevel = level;
  if (level === 0) return;
  const nxe = (mode.efer & EFER_NXE) !== 0;
  const nx = nxe && level !== 2;
  walk.fourByte = level === 2;
  walk.pse = (mode.cr4 & CR4_PSE) !== 0;
  // Outside 4- and 5-level paging CR3 is 32 bits wide; PAE's table of PDPTEs is 32-byte aligned.
  walk.rootLo = level === 3 ? mode.rootLo & ~0x1f : mode.rootLo & ~0xfff;
  walk.rootHi = level >= 4 ? mode.rootHi & 0xf_ffff : 0;
  walk.fetchInErrorCode = nx || (mode.cr4 & CR4_SMEP) !== 0;
  walk.format.permissions = sharedBitmap({ ept: false, nx, ...rules });
  const { maxphyaddr, page1g, amd, pse36 } = features;
  const key = `${level} ${maxphyaddr} ${nx} ${page1g} ${amd} ${walk.pse} ${pse36}`;
  walk.format.reserved = sharedMasks(key, () => {
    if (level >= 4) return reservedLongMode({ maxphyaddr, nx, page1g, amd });
    return level === 3 ? reservedPae({ maxphyaddr, nx, page1g, amd }) : reserved32(maxphyaddr, walk.pse, pse36);
  });
}

/**
 * Sets up `cpuWalk` and `tdpWalk` for the state in `registers` (2 elements per register), and links them when the
 * processor runs a guest with EPT or NPT. `eptWalk` and `nptWalk` are the two shapes of `tdpWalk`.
 * Returns the second stage in force, or null.
 */
export function configureWalks(
  registers: Uint32Array,
  features: PagingFeatures,
  cpuWalk: PageWalk,
  eptWalk: PageWalk,
  nptWalk: PageWalk,
): PageWalk | null {
  const low = (register: number): number => registers[2 * register]!;
  const high = (register: number): number => registers[2 * register + 1]!;
  const cr4 = low(Reg.CR4);
  const efer = low(Reg.EFER);
  const cr0 = low(Reg.CR0);

  let second: PageWalk | null = null;
  const mode = low(Reg.GUEST_MODE);
  if (mode === GuestMode.VMX && (low(Reg.SECONDARY_CONTROLS) & SECONDARY_EPT) !== 0) {
    second = eptWalk;
    configureEpt(eptWalk, features, low(Reg.EPTP), high(Reg.EPTP), low(Reg.SECONDARY_CONTROLS));
    // Without an address nobody has said where the log is.
    const logs = eptWalk.ad && (low(Reg.SECONDARY_CONTROLS) & SECONDARY_PML) !== 0;
    const told = low(Reg.PML_ADDRESS) !== 0 || high(Reg.PML_ADDRESS) !== 0;
    eptWalk.modificationLog = logs && told ? registers : null;
  } else if (mode === GuestMode.SVM && (low(Reg.NESTED_CONTROL) & NESTED_NP_ENABLE) !== 0) {
    second = nptWalk;
    const gmet = (low(Reg.NESTED_CONTROL) & NESTED_GMET) !== 0;
    // Nested accesses count as user accesses, so SMEP, SMAP, WP and keys never apply (APM vol. 2 15.25.5).
    configureX86(
      nptWalk,
      features,
      {
        cr0: low(Reg.HOST_CR0),
        cr4: low(Reg.HOST_CR4),
        efer: low(Reg.HOST_EFER),
        rootLo: low(Reg.NCR3),
        rootHi: high(Reg.NCR3),
      },
      { tdp: true, smep: gmet, smap: false, wp: true },
    );
    nptWalk.pdptesInMemory = true;
    nptWalk.gmet = gmet;
  }

  configureX86(
    cpuWalk,
    features,
    { cr0, cr4, efer, rootLo: low(Reg.CR3), rootHi: high(Reg.CR3) },
    {
      tdp: false,
      smep: (cr4 & CR4_SMEP) !== 0,
      smap: (cr4 & CR4_SMAP) !== 0,
      wp: (cr0 & CR0_WP) !== 0,
    },
  );
  cpuWalk.second = second;
  cpuWalk.pdptesInMemory = second === nptWalk;
  cpuWalk.pdptes.set(registers.subarray(2 * Reg.PDPTE0, 2 * Reg.PDPTE0 + 8));
  cpuWalk.pkru = low(Reg.PKRU) | 0;
  cpuWalk.pkrs = low(Reg.PKRS) | 0;
  const longMode = (efer & EFER_LMA) !== 0;
  const wp = (cr0 & CR0_WP) !== 0;
  cpuWalk.format.keyMask =
    ((longMode && (cr4 & CR4_PKE) !== 0 ? protectionKeyMask(wp, true) : 0) |
      (longMode && (cr4 & CR4_PKS) !== 0 ? protectionKeyMask(wp, false) : 0)) >>>
    0;
  return second;
}

function configureEpt(
  walk: PageWalk,
  features: PagingFeatures,
  eptpLo: number,
  eptpHi: number,
  secondaryControls: number,
): void {
  walk.rootLevel = ((eptpLo >>> 3) & 7) + 1;
  walk.rootLo = eptpLo & ~0xfff;
  walk.rootHi = eptpHi & 0xf_ffff;
  walk.ad = (eptpLo & EPTP_AD) !== 0;
  walk.mbec = (secondaryControls & SECONDARY_MBEC) !== 0;
  walk.advancedInfo = features.eptAdvancedInfo;
  walk.format.permissions = sharedBitmap({ tdp: true, ept: true, smep: walk.mbec, smap: false, wp: true, nx: true });
  const { maxphyaddr, ept2m, ept1g, eptExecuteOnly } = features;
  walk.format.reservedHi = reservedEpt(maxphyaddr, ept2m, ept1g).hi[1]!;
  walk.format.kindsAt = eptKindsAt({ executeOnly: eptExecuteOnly, mbec: walk.mbec, page2m: ept2m, page1g: ept1g });
}
