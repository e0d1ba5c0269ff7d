/**
 * KVM's role words: under which mode bits a walk reads guest tables (cpu role) or an MMU builds its own (root role, and
 * the role of every shadow page below). Bit for bit those of the profile's kernel (facts/kvm-mmu.md §2; 6.1's layout in
 * §2.1, its rules for NPT12: CR0.WP is 0 and only CR4.PKE is taken out). Words are numbers in [0, 2^32).
 *
 * Rights inside rewalk are always the 4-bit `ACC_*` of `permissions.ts`. 6.1's words hold 3 bits, EXEC=1, WRITE=2,
 * USER=4; its READ is always there, and for EPT its USER means readable.
 */

import type { KvmProfile } from '../formats/decode/kvm-role.ts';
import {
  CR0_PG,
  CR0_WP,
  CR4_LA57,
  CR4_PAE,
  CR4_PKE,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_LMA,
  EFER_NXE,
  EPTP_AD,
} from '../formats/registers.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from './permissions.ts';

export const ACC_ALL = ACC_READ | ACC_WRITE | ACC_USER | ACC_EXEC;

const LEVEL_MASK = 0xf;
const HAS_4_BYTE_GPTE = 1 << 4;
const QUADRANT_SHIFT = 5;
const QUADRANT_MASK = 3 << QUADRANT_SHIFT;
const DIRECT = 1 << 7;
const ACCESS_SHIFT = 8;
const AD_DISABLED = 1 << 16;
const GUEST_MODE = 1 << 17;
const PASSTHROUGH = 1 << 18;
const SMM_SHIFT = 24;

/** Where the profiles differ; 0: the profile has no such bit. */
interface RoleLayout {
  readonly access: number;
  readonly invalid: number;
  readonly eferNx: number;
  readonly cr0Wp: number;
  readonly smepAndnotWp: number;
  readonly smapAndnotWp: number;
  readonly cr4Smep: number;
  // Extended role.
  readonly extSmep: number;
  readonly extLa57: number;
  readonly extLma: number;
  readonly extPferrFetch: number;
}

const LAYOUT_6_1: RoleLayout = {
  access: 7 << ACCESS_SHIFT,
  invalid: 1 << 11,
  eferNx: 1 << 12,
  cr0Wp: 1 << 13,
  smepAndnotWp: 1 << 14,
  smapAndnotWp: 1 << 15,
  cr4Smep: 0,
  extSmep: 1 << 5,
  extLa57: 1 << 6,
  extLma: 1 << 7,
  extPferrFetch: 0,
};

const LAYOUT_7_3: RoleLayout = {
  access: 15 << ACCESS_SHIFT,
  invalid: 1 << 12,
  eferNx: 1 << 13,
  cr0Wp: 1 << 14,
  smepAndnotWp: 0,
  smapAndnotWp: 1 << 15,
  cr4Smep: 1 << 20,
  extSmep: 0,
  extLa57: 1 << 5,
  extLma: 1 << 6,
  extPferrFetch: 1 << 7,
};

function layoutOf(profile: KvmProfile): RoleLayout {
  return profile === '6.1' ? LAYOUT_6_1 : LAYOUT_7_3;
}

/** Extended role, bits that the profiles share. */
export const EXT_VALID = 1 << 0;
export const EXT_EXECONLY = 1 << 1;
export const EXT_CR4_PSE = 1 << 2;
export const EXT_CR4_PKE = 1 << 3;
export const EXT_CR4_SMAP = 1 << 4;

/** `kvm_cpu_role`: base word (low half) and extended word (high half). */
export interface CpuRole {
  readonly base: number;
  readonly ext: number;
}

/** What the cpu role of tables under CR3 depends on. CR4 and EFER: low halves. */
export interface RoleInputs {
  readonly cr0: number;
  readonly cr4: number;
  readonly efer: number;
  readonly smm: boolean;
  /** L2 is active. */
  readonly guestMode: boolean;
}

// ------------------------------------------------------------------------------------------------------- reading words

/** Level of the table, 1-5; of a cpu role 0 = no paging. */
export function roleLevel(word: number): number {
  return word & LEVEL_MASK;
}

/** Rights as `ACC_*`, whatever the profile. */
export function roleAccess(word: number, profile: KvmProfile): number {
  const raw = word >>> ACCESS_SHIFT;
  return profile === '6.1' ? ACC_READ | (raw & (ACC_WRITE | ACC_USER)) | ((raw & 1) << 3) : raw & ACC_ALL;
}

/** Rights (`ACC_*`) as the profile numbers them: what stands in role words and in `access` fields of tracepoints. */
export function accessNumber(access: number, profile: KvmProfile): number {
  return profile === '6.1' ? (access & (ACC_WRITE | ACC_USER)) | ((access >>> 3) & 1) : access & ACC_ALL;
}

/** No guest table is shadowed. */
export function isDirect(word: number): boolean {
  return (word & DIRECT) !== 0;
}

/** With 4-byte entries: which quarter (level 2) or half (level 1) of the guest's table is shadowed. */
export function quadrant(word: number): number {
  return (word & QUADRANT_MASK) >>> QUADRANT_SHIFT;
}

export function withQuadrant(word: number, value: number): number {
  return ((word & ~QUADRANT_MASK) | (value << QUADRANT_SHIFT)) >>> 0;
}

export function has4ByteGpte(word: number): boolean {
  return (word & HAS_4_BYTE_GPTE) !== 0;
}

export function isInvalid(word: number, profile: KvmProfile): boolean {
  return (word & layoutOf(profile).invalid) !== 0;
}

export function withInvalid(word: number, profile: KvmProfile): number {
  return (word | layoutOf(profile).invalid) >>> 0;
}

export function withLevel(word: number, level: number): number {
  return ((word & ~LEVEL_MASK) | level) >>> 0;
}

export function withAccess(word: number, access: number, profile: KvmProfile): number {
  return ((word & ~layoutOf(profile).access) | (accessNumber(access, profile) << ACCESS_SHIFT)) >>> 0;
}

export function adDisabled(word: number): boolean {
  return (word & AD_DISABLED) !== 0;
}

export function guestMode(word: number): boolean {
  return (word & GUEST_MODE) !== 0;
}

export function passthrough(word: number): boolean {
  return (word & PASSTHROUGH) !== 0;
}

export function withoutPassthrough(word: number): number {
  return (word & ~PASSTHROUGH) >>> 0;
}

/** The address space: 1 in SMM, else 0. */
export function smm(word: number): number {
  return word >>> SMM_SHIFT;
}

export function eferNx(word: number, profile: KvmProfile): boolean {
  return (word & layoutOf(profile).eferNx) !== 0;
}

export function cr0Wp(word: number, profile: KvmProfile): boolean {
  return (word & layoutOf(profile).cr0Wp) !== 0;
}

/** Of a page's role: supervisors may write to what is read-only, and may not execute what is a user's (SMEP without WP). */
export function smepWithoutWp(word: number, profile: KvmProfile): boolean {
  const layout = layoutOf(profile);
  return (word & layout.cr0Wp) === 0 && (word & (layout.smepAndnotWp | layout.cr4Smep)) !== 0;
}

/** Of a page's role: SMEP, or what shares its bit (7.3; facts/kvm-mmu.md §2.1). */
export function cr4SmepOfPage(word: number, profile: KvmProfile): boolean {
  return (word & layoutOf(profile).cr4Smep) !== 0;
}

/** The word with CR0.WP replaced and nothing else, as its refresh on demand does (facts/kvm-mmu.md §3.4). */
export function withCr0Wp(word: number, wp: boolean, profile: KvmProfile): number {
  const bit = layoutOf(profile).cr0Wp;
  return (wp ? word | bit : word & ~bit) >>> 0;
}

/** CR4.SMEP; for EPT mode-based execute control, for NPT GMET (7.3). */
export function cr4Smep(role: CpuRole, profile: KvmProfile): boolean {
  const layout = layoutOf(profile);
  return (role.base & layout.cr4Smep) !== 0 || (role.ext & layout.extSmep) !== 0;
}

/** Fetches set F in error codes. */
export function hasPferrFetch(role: CpuRole, profile: KvmProfile): boolean {
  if (profile === '6.1') return eferNx(role.base, profile) || cr4Smep(role, profile);
  return (role.ext & LAYOUT_7_3.extPferrFetch) !== 0;
}

/** Bits in which a shadow page may differ from the root role and still be synced: level, access, quadrant, passthrough. */
export function roleSyncIgnored(profile: KvmProfile): number {
  return LEVEL_MASK | QUADRANT_MASK | layoutOf(profile).access | PASSTHROUGH;
}

// ---------------------------------------------------------------------------------------------------------- cpu roles

/** Of the tables that CR3 points at (facts/kvm-mmu.md §2.3). */
export function cpuRole(profile: KvmProfile, inputs: RoleInputs): CpuRole {
  const layout = layoutOf(profile);
  const { cr0, cr4, efer } = inputs;
  let base = layout.access | (inputs.smm ? 1 << SMM_SHIFT : 0) | (inputs.guestMode ? GUEST_MODE : 0);
  if ((cr0 & CR0_PG) === 0) return { base: (base | DIRECT) >>> 0, ext: EXT_VALID };

  const wp = (cr0 & CR0_WP) !== 0;
  const smep = (cr4 & CR4_SMEP) !== 0;
  const smap = (cr4 & CR4_SMAP) !== 0;
  const pae = (cr4 & CR4_PAE) !== 0;
  const nx = (efer & EFER_NXE) !== 0;
  const longMode = (efer & EFER_LMA) !== 0;
  const la57 = longMode && (cr4 & CR4_LA57) !== 0;
  base |= longMode ? (la57 ? 5 : 4) : pae ? 3 : 2;
  if (!pae) base |= HAS_4_BYTE_GPTE;
  if (nx) base |= layout.eferNx;
  if (wp) base |= layout.cr0Wp;
  if (smep) base |= layout.cr4Smep;
  if (smep && !wp) base |= layout.smepAndnotWp;
  if (smap && !wp) base |= layout.smapAndnotWp;

  let ext = EXT_VALID;
  if ((cr4 & CR4_PSE) !== 0) ext |= EXT_CR4_PSE;
  if (longMode && (cr4 & CR4_PKE) !== 0) ext |= EXT_CR4_PKE;
  if (smap) ext |= EXT_CR4_SMAP;
  if (smep) ext |= layout.extSmep;
  if (la57) ext |= layout.extLa57;
  if (longMode) ext |= layout.extLma;
  if (nx || smep) ext |= layout.extPferrFetch;
  return { base: base >>> 0, ext };
}

/** Of L1's EPT tables (§2.4). `executeOnly`: what L1 is told that EPT can; `mbec`: 7.3 only. */
export function eptCpuRole(profile: KvmProfile, eptpLo: number, executeOnly: boolean, mbec: boolean): CpuRole {
  const layout = layoutOf(profile);
  let base = (((eptpLo >>> 3) & 7) + 1) | layout.access | GUEST_MODE;
  if ((eptpLo & EPTP_AD) === 0) base |= AD_DISABLED;
  if (mbec) base |= layout.cr4Smep;
  return { base: base >>> 0, ext: EXT_VALID | (executeOnly ? EXT_EXECONLY : 0) };
}

/** Of L1's nested page tables (§2.4); CR4 and EFER are L1's. `gmet`: 7.3 only. */
export function nptCpuRole(
  profile: KvmProfile,
  l1: { cr4: number; efer: number; smm: boolean },
  gmet: boolean,
): CpuRole {
  const { smm: inSmm, efer } = l1;
  if (profile === '6.1') {
    return cpuRole(profile, { cr0: CR0_PG, cr4: l1.cr4 & ~CR4_PKE, efer, smm: inSmm, guestMode: true });
  }
  const cr4 = l1.cr4 & ~(CR4_PKE | CR4_SMAP);
  const role = cpuRole(profile, { cr0: CR0_PG | CR0_WP, cr4, efer, smm: inSmm, guestMode: true });
  const bit = LAYOUT_7_3.cr4Smep;
  return { base: (gmet ? role.base | bit : role.base & ~bit) >>> 0, ext: role.ext };
}

// --------------------------------------------------------------------------------------------------------- root roles

export interface TdpRoot {
  readonly level: number;
  /** KVM itself does not use A/D bits. */
  readonly adDisabled: boolean;
  /** The hardware's tables are in MBEC or GMET form; 7.3 only. */
  readonly mbec?: boolean;
  readonly gmet?: boolean;
}

/** Of the tables that translate guest-physical addresses (§2.5). `cpuBase`: base word of the CR3 walk's cpu role. */
export function tdpRootRole(profile: KvmProfile, cpuBase: number, root: TdpRoot): number {
  const layout = layoutOf(profile);
  const gmet = root.gmet === true;
  let word = root.level | DIRECT | layout.eferNx | layout.cr0Wp | (cpuBase & (GUEST_MODE | (0xff << SMM_SHIFT)));
  if (root.adDisabled) word |= AD_DISABLED;
  if (root.mbec === true || gmet) word |= layout.cr4Smep;
  return withAccess(word, gmet ? ACC_ALL & ~ACC_USER : ACC_ALL, profile);
}

/** Of the shadow of CR3's tables: PAE at least, NX always on. */
export function shadowRootRole(profile: KvmProfile, cpuBase: number): number {
  return (withLevel(cpuBase, Math.max(roleLevel(cpuBase), 3)) | layoutOf(profile).eferNx) >>> 0;
}

/** Of the shadow of L1's nested page tables; `cpuBase` of `nptCpuRole`. */
export function shadowNptRootRole(cpuBase: number, tdpLevel: number): number {
  const extra = tdpLevel === 5 && roleLevel(cpuBase) === 4 ? PASSTHROUGH : 0;
  return (withLevel(cpuBase, tdpLevel) | extra) >>> 0;
}

/** Of the shadow of L1's EPT tables; `cpuBase` of `eptCpuRole`. */
export function shadowEptRootRole(cpuBase: number): number {
  return cpuBase;
}

export interface Child {
  readonly direct: boolean;
  /** Rights of the levels above the child's own entries, `ACC_*`. */
  readonly access: number;
  /** Index of the entry in the parent that leads to the child. */
  readonly parentIndex: number;
}

/** The role of a page one level below (§2.5). */
export function childRole(profile: KvmProfile, parentRole: number, child: Child): number {
  let word = withAccess(parentRole - 1, child.access, profile) & ~(DIRECT | PASSTHROUGH);
  if (child.direct) word |= DIRECT;
  return (word & HAS_4_BYTE_GPTE) !== 0 ? withQuadrant(word, child.parentIndex & 1) : word >>> 0;
}
