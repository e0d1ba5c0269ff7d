/**
 * A KVM page walk: the context in which KVM reads guest tables in software, what 7.3 calls `struct kvm_pagewalk` and
 * 6.1 keeps in the walk half of each kvm_mmu (facts/kvm-mmu.md §1). It holds the cpu role, what follows from it (page
 * format), where root and PDPTEs come from, and the result of the last walk; `software-walk.ts` runs it.
 *
 * | who | `second` | walks |
 * | --- | --- | --- |
 * | cpuWalk (root_mmu / gva_walk) | null | CR3's tables of L1, and of an L2 without nested TDP |
 * | gvaWalk, by wiring another one or the same | tdpWalk | CR3's tables of an L2 with nested TDP |
 * | tdpWalk (guest_mmu / ngpa_walk), `ngpa` | null | L1's EPT12 or NPT12 |
 *
 * Which walk is whose at what time is the business of `mmu/wiring.ts`.
 */

import type { KvmProfile } from '../formats/decode/kvm-role.ts';
import { CR0_WP, Reg } from '../formats/registers.ts';
import type { PagingFeatures } from './configure.ts';
import type { GuestMemory } from './guest-memory.ts';
import {
  adDisabled,
  type CpuRole,
  cr0Wp,
  cr4Smep,
  EXT_CR4_PKE,
  EXT_CR4_PSE,
  EXT_CR4_SMAP,
  EXT_EXECONLY,
  EXT_VALID,
  eferNx,
  has4ByteGpte,
  hasPferrFetch,
  roleLevel,
  withCr0Wp,
} from './kvm-roles.ts';
import { ACC_EXEC, ACC_USER, ACC_WRITE, permissionBitmap, protectionKeyMask } from './permissions.ts';
import {
  badCombinationTable,
  type ReservedMasks,
  reserved32,
  reservedEpt,
  reservedLongMode,
  reservedPae,
} from './reserved-bits.ts';
import type { RowLog } from './row-log.ts';
import { WalkBug } from './walk-bugs.ts';

// An access, as walks are asked for it: PFEC bits 15:0 as in error codes (WRITE, USER, FETCH of `access.ts`, and P),
// and what PFEC has above bit 31:
/** PFEC bit 32: the final address of a GVA, asked of the second stage. */
export const GUEST_FINAL = 1 << 16;
/** PFEC bit 33: a page of guest tables, asked of the second stage. */
export const GUEST_PAGE = 1 << 17;
/** PFEC bit 48: implicit supervisor access, which RFLAGS.AC does not excuse from SMAP. */
export const IMPLICIT_ACCESS = 1 << 18;

/** How entries are read. */
export const PteFormat = { NONE: 0, PAGING32: 1, PAGING64: 2, EPT: 3 } as const;

/** Where PAE's PDPTEs come from. */
export const PdpteSource = {
  /** `pdptes`, which the owner loads with CR3 (shadow paging) or copies from the VMCS (EPT). */
  LOADED: 0,
  /** `pdptes`, loaded from CR3's table at first use after `pdptesStale` was set: with each exit under NPT. */
  LAZY: 1,
  /** Memory at each walk: NPT12. */
  MEMORY: 2,
} as const;

/** KVM's `x86_exception`: how the last failed walk of a vCPU failed. One record for all walks of the vCPU. */
export class WalkFault {
  /** The walk of the tables of whoever runs: a fault of another is one of the second stage; null: `ngpa` tells. */
  gvaWalk: KvmPageWalk | null = null;
  /** Error code, low half. RSVD tells an EPT misconfiguration from a violation. */
  errorCode = 0;
  /** Bits 63:32: GUEST_FINAL is bit 0, GUEST_PAGE bit 1 (7.3, NPT12 only). */
  errorCodeHi = 0;
  addressLo = 0;
  addressHi = 0;
  /** nested_page_fault: the fault is one of L1's second stage; the address is an nGPA. */
  nested = false;
  /**
   * EPT exit qualification, bits 12:0. 6.1 keeps it for the whole vCPU and updates it in place, so the owner stores
   * each EPT violation's own qualification here at the exit.
   */
  qualification = 0;
}

export interface KvmWalkOptions {
  readonly profile: KvmProfile;
  /** Walks L1's second stage (guest_mmu). */
  readonly ngpa: boolean;
  /** Entries in EPT format; with `ngpa` only. */
  readonly ept: boolean;
  /** KVM uses TDP. */
  readonly tdp: boolean;
  readonly memory: GuestMemory;
  readonly log: RowLog;
  /** The vCPU's registers now, 2 elements each, by `Reg`: CR0.WP, CR3, EPTP, NCR3 and PKRU are read on demand. */
  readonly registers: Uint32Array;
  readonly features: PagingFeatures;
  readonly fault: WalkFault;
  /** Bits of `WalkBug`; usual: none. */
  readonly bugs?: number;
}

export class KvmPageWalk implements CpuRole {
  readonly profile: KvmProfile;
  readonly ngpa: boolean;
  readonly ept: boolean;
  readonly tdp: boolean;
  readonly memory: GuestMemory;
  readonly log: RowLog;
  readonly registers: Uint32Array;
  /** May be replaced (KVM_SET_CPUID); takes effect with the next `init` that is not skipped. */
  features: PagingFeatures;
  readonly fault: WalkFault;
  readonly bugs: number;
  /** The walk that translates this one's addresses, or null. */
  second: KvmPageWalk | null = null;
  /** RFLAGS.AC. */
  ac = false;
  pdpteSource: number;
  pdptesStale = false;
  /** PDPTEs, 2 elements each; 6.1 has one array per MMU, 7.3 one per vCPU. */
  pdptes: Int32Array = new Int32Array(8);
  /** The last successful `loadPdptes` changed them. */
  pdptesChanged = false;
  /** EPT12: L1's page-modification log takes the nGPA whose D bit is about to be set; false = full, the walk fails. */
  writeLogDirty: ((lo: number, hi: number) => boolean) | null = null;

  // The cpu role and what follows from it.
  base = 0;
  ext = 0;
  /** One of `PteFormat`. */
  format: number = PteFormat.NONE;
  rootLevel = 0;
  /** A/D bits are used. */
  haveAd = true;
  pse = false;
  /** EPT: mode-based execute control; NPT: GMET (7.3). */
  smep = false;
  pferrFetch = false;
  /** Page format; stale while CR0.PG = 0, as in KVM. */
  permissions: Uint16Array = permissionBitmap({
    tdp: false,
    ept: false,
    smep: false,
    smap: false,
    wp: false,
    nx: false,
  });
  keyMask = 0;
  reserved: ReservedMasks = reservedLongMode({ maxphyaddr: 52, nx: true, page1g: true, amd: false });
  /** EPT: forbidden combinations, see `badCombinationTable`. */
  badCombinations: Uint8Array = NO_BAD_COMBINATIONS;

  // Result of the last walk. Per-level arrays are indexed by level, 1-5; valid from `maxLevel` down to `level`.
  /** Level of the leaf; 0 without paging. */
  level = 0;
  /** Level of the first table: the root level; for PAE 2. */
  maxLevel = 0;
  /** The frame translated to, after the second stage; for a large page the 4 KiB frame within. */
  gfn = 0;
  /** Rights of all levels, `ACC_*`; WRITE dropped on reads through a clean leaf. */
  pteAccess = 0;
  /** Guest frame of the table, before the second stage, and byte offset of the entry in it. */
  readonly tableGfn = new Float64Array(6);
  readonly entryOffset = new Int32Array(6);
  /** The same frame after the second stage, and whether its memslot is writable. */
  readonly tableRealGfn = new Float64Array(6);
  readonly tableWritable = new Uint8Array(6);
  /** The entry, with the A/D bits that this walk set; 4-byte entries have a high half of 0. */
  readonly entryLo = new Int32Array(6);
  readonly entryHi = new Int32Array(6);
  /** Rights of the levels above, `ACC_*`. */
  readonly ptAccess = new Uint8Array(6);

  constructor(options: KvmWalkOptions) {
    this.profile = options.profile;
    this.ngpa = options.ngpa;
    this.ept = options.ept;
    this.tdp = options.tdp;
    this.memory = options.memory;
    this.log = options.log;
    this.registers = options.registers;
    this.features = options.features;
    this.fault = options.fault;
    this.bugs = options.bugs ?? 0;
    this.pdpteSource = options.ngpa ? PdpteSource.MEMORY : PdpteSource.LOADED;
  }

  /** Both words are those in force. */
  hasRole(role: CpuRole): boolean {
    return role.base === this.base && role.ext === this.ext;
  }

  /** Takes over a cpu role; skipped (false) when it is the one in force. */
  init(role: CpuRole): boolean {
    if (this.hasRole(role)) return false;
    this.setUp(role);
    return true;
  }

  /** Takes over a cpu role, whatever is in force. */
  setUp(role: CpuRole): void {
    this.base = role.base;
    this.ext = role.ext;
    const { profile, base } = this;
    this.rootLevel = roleLevel(base);
    this.haveAd = !this.ept || !adDisabled(base);
    this.pse = (role.ext & EXT_CR4_PSE) !== 0;
    this.smep = cr4Smep(role, profile);
    this.pferrFetch = hasPferrFetch(role, profile);
    this.format = this.ept ? PteFormat.EPT : formatOf(base);
    this.rebuild();
  }

  /** The next `init` is not skipped: CPUID changed, which decides about reserved bits (kvm_mmu_after_set_cpuid). */
  invalidate(): void {
    this.ext &= ~EXT_VALID;
  }

  /**
   * CR0.WP may change without KVM's knowledge under TDP, so it is looked at before each permission check
   * (facts/kvm-mmu.md §3.4). Only this bit of the role changes, not smap_andnot_wp.
   */
  refreshWp(): void {
    if (!this.refreshesWp()) return;
    const wp = (this.registers[2 * Reg.CR0]! & CR0_WP) !== 0;
    if (wp === cr0Wp(this.base, this.profile)) return;
    this.base = withCr0Wp(this.base, wp, this.profile);
    this.rebuild();
  }

  /** Without TDP writes of WP are intercepted; to a second stage WP is no input. */
  private refreshesWp(): boolean {
    const bug = this.second === null ? WalkBug.OLD_WP : WalkBug.OLD_WP | WalkBug.L2_OLD_WP;
    return this.tdp && !this.ngpa && (this.bugs & bug) === 0;
  }

  /** Reserved bits, permissions, protection keys; nothing while paging is off. */
  private rebuild(): void {
    if (this.format === PteFormat.NONE) return;
    if ((this.bugs & WalkBug.KEY_MASK_GROWS) === 0) this.keyMask = 0;
    if (this.ept) this.rebuildEpt();
    else this.rebuildX86();
  }

  private rebuildX86(): void {
    const { profile, base, ext, features } = this;
    const wp = cr0Wp(base, profile);
    const nx = eferNx(base, profile);
    // 6.1 knows no GMET: NPT12 has the same bitmap as other tables, and every access to it is a user access.
    const tdp = this.ngpa && profile !== '6.1';
    this.permissions = x86Bitmap(tdp, this.smep, (ext & EXT_CR4_SMAP) !== 0, wp, nx);
    if ((ext & EXT_CR4_PKE) !== 0) this.keyMask |= protectionKeyMask(wp, true);
    this.reserved = x86Reserved(this.rootLevel, nx, this.pse, features);
  }

  private rebuildEpt(): void {
    const { profile, features, smep } = this;
    this.permissions =
      profile === '6.1'
        ? EPT_BITMAP_6_1
        : permissionBitmap({ tdp: true, ept: true, smep, smap: false, wp: true, nx: true });
    this.reserved = reservedEpt(features.maxphyaddr, features.ept2m, features.ept1g);
    this.badCombinations = badCombinationTable((this.ext & EXT_EXECONLY) !== 0, smep);
  }
}

const NO_BAD_COMBINATIONS = new Uint8Array(128);

function formatOf(base: number): number {
  if (roleLevel(base) === 0) return PteFormat.NONE;
  return has4ByteGpte(base) ? PteFormat.PAGING32 : PteFormat.PAGING64;
}

const bitmaps: (Uint16Array | undefined)[] = [];

/** Built once each: under TDP a guest may toggle CR0.WP as often as it likes. */
function x86Bitmap(tdp: boolean, smep: boolean, smap: boolean, wp: boolean, nx: boolean): Uint16Array {
  const key = (tdp ? 1 : 0) | (smep ? 2 : 0) | (smap ? 4 : 0) | (wp ? 8 : 0) | (nx ? 16 : 0);
  let bitmap = bitmaps[key];
  if (bitmap === undefined) {
    bitmap = permissionBitmap({ tdp, ept: false, smep, smap, wp, nx });
    bitmaps[key] = bitmap;
  }
  return bitmap;
}

const reservedMasks = new Map<number, ReservedMasks>();

function x86Reserved(level: number, nx: boolean, pse: boolean, features: PagingFeatures): ReservedMasks {
  const { maxphyaddr, page1g, amd } = features;
  const flags = (nx ? 1 : 0) | (pse ? 2 : 0) | (page1g ? 4 : 0) | (amd ? 8 : 0);
  const key = (maxphyaddr << 8) | (level << 4) | flags;
  let masks = reservedMasks.get(key);
  if (masks === undefined) {
    masks = buildReserved(level, nx, pse, features);
    reservedMasks.set(key, masks);
  }
  return masks;
}

/** KVM takes PSE-36 for granted, with address bits 35:32 whatever MAXPHYADDR is (facts/kvm-mmu.md §4). */
const PSE36_MAXPHYADDR = 36;

function buildReserved(level: number, nx: boolean, pse: boolean, features: PagingFeatures): ReservedMasks {
  const { maxphyaddr, page1g, amd } = features;
  if (level === 2) return reserved32(PSE36_MAXPHYADDR, pse, true);
  const rules = { maxphyaddr, nx, page1g, amd };
  return level === 3 ? reservedPae(rules) : reservedLongMode(rules);
}

/**
 * 6.1's EPT permissions: USER stands for R, and reads are known by being user accesses, which all of the second stage's
 * are (facts/kvm-mmu.md §3.1).
 */
const EPT_BITMAP_6_1 = Uint16Array.from({ length: 16 }, (_, index) => {
  const needed =
    ((index & 1) !== 0 ? ACC_WRITE : 0) | ((index & 2) !== 0 ? ACC_USER : 0) | ((index & 8) !== 0 ? ACC_EXEC : 0);
  let faults = 0;
  for (let rights = 0; rights < 16; rights++) if ((rights & needed) !== needed) faults |= 1 << rights;
  return faults;
});
