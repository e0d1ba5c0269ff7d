/**
 * Whether an entry of a shadow table gives more than the guest's tables give, read anew from guest memory by the format
 * that the table's own role names: its guest may be in another paging mode by now (facts/kvm-mmu.md §2.1, §4, §6.4).
 */

import type { PagingFeatures } from '../paging/configure.ts';
import { frameOf as frameOfEntry } from '../paging/guest-memory.ts';
import {
  ACC_ALL,
  adDisabled,
  childRole,
  cr0Wp,
  cr4SmepOfPage,
  eferNx,
  guestMode,
  has4ByteGpte,
  passthrough,
  quadrant,
  roleAccess,
  smepWithoutWp,
  smm,
} from '../paging/kvm-roles.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from '../paging/permissions.ts';
import { EPT_ENTRY_KINDS, EptEntry, eptKindsAt, reservedIndex, reservedLongMode } from '../paging/reserved-bits.ts';
import type { ShadowPages } from './pages.ts';
import { ENTRIES, pagesOf, type ShadowPage } from './shadow-page.ts';
import { SPTE_W } from './spte.ts';
import type { Memory } from './table-memory.ts';

/** Guest memory to look at. */
export interface GuestTables {
  readonly memory: Memory;
  /** Index in `memory.words` of a guest frame's page; -1 without a slot. No effect. */
  pageIndexOf(gfn: number, addressSpace: number): number;
}

/** Through which the guest's tables are seen. */
export interface GuestView {
  readonly guest: GuestTables;
  /** Somebody of whom KVM does not hear has changed the table in a frame. */
  readonly unnoticed: (gfn: number) => boolean;
  /** What L1 is told that paging can do. */
  readonly features: PagingFeatures;
}

/** An entry of a shadow table that is there. */
interface Entry {
  readonly index: number;
  readonly lo: number;
  readonly hi: number;
}

const PRESENT = 1 << 0;
const PAGE_SIZE = 1 << 7;
const EPT_RWX = 7;
const EPT_USER_EXECUTE = 1 << 10;
const FRAME_HI = 0xf_ffff;

/** What a guest entry says, as far as an SPTE repeats it. */
interface GuestEntry {
  readonly present: boolean;
  /** Reserved bits, or an EPT misconfiguration: nobody may use it. */
  readonly reserved: boolean;
  readonly accessed: boolean;
  readonly dirty: boolean;
  readonly large: boolean;
  /** `ACC_*` of this entry alone. */
  readonly access: number;
  /** First frame of the next table, and of the page if the entry maps one. */
  readonly tableGfn: number;
  readonly pageGfn: number;
}

/**
 * Null, or what is wrong with a present entry of a table: rights beyond those of the table, or another frame or more
 * rights than the guest's entry gives, unless the table is unsync or the guest's has changed unnoticed.
 */
export function rightsBeyond(pages: ShadowPages, view: GuestView, sp: ShadowPage, spte: Entry): string | null {
  const { index, lo, hi } = spte;
  const leaf = pages.format.isLeaf(lo, sp.level);
  const child = leaf ? null : pages.childOf(lo, hi);
  if (child !== null) {
    const wrong = wrongChild(pages, sp, index, child);
    if (wrong !== null) return wrong;
  }
  const { profile } = pages.config;
  const given = roleAccess(sp.role, profile);
  if (!pages.hasGptes(sp)) {
    if (child !== null) return passesAll(pages, sp, child) ? null : 'passes fewer rights through than all';
    return exceeds(pages, lo, hi, given) ? 'gives more than the role of its table' : null;
  }
  if (leaf && profile !== '6.1' && pages.format.isEmptyAccess(sp.accesses![index]!))
    return 'is there, and has no rights';
  if (leaf && exceeds(pages, lo, hi, sp.accesses![index]!)) return 'gives more than it was last mapped with';
  const entry = entryInStep(pages, view, sp, index);
  return entry === null ? null : againstEntry(pages, sp, spte, child, entry);
}

/**
 * The same of an MMIO SPTE, which is for guest frame `gfn`: it stands where the guest's tables lead to that frame.
 */
export function mmioBeside(
  pages: ShadowPages,
  view: GuestView,
  sp: ShadowPage,
  index: number,
  gfn: number,
): string | null {
  const own = pages.hasGptes(sp) ? entryInStep(pages, view, sp, index) : null;
  if (pages.hasGptes(sp) && own === null) return null;
  const expected = own === null ? sp.gfnAt(index) : own.pageGfn;
  if (gfn === expected && own?.present !== false) return null;
  return `is MMIO of gfn ${gfn.toString(16)}, and what it stands for is not`;
}

/** The guest's entry that an entry of a table shadows; null if the two may differ. */
function entryInStep(pages: ShadowPages, view: GuestView, sp: ShadowPage, index: number): GuestEntry | null {
  const at = view.guest.pageIndexOf(sp.gfn, smm(sp.role));
  if (sp.unsync || at < 0 || view.unnoticed(sp.gfn)) return null;
  return readEntry(pages, view, sp, index, at);
}

function passesAll(pages: ShadowPages, sp: ShadowPage, child: ShadowPage): boolean {
  return !passthrough(sp.role) || roleAccess(child.role, pages.config.profile) === ACC_ALL;
}

/** A child's role is its parent's but for what may differ (facts/kvm-mmu.md §2.5); below a direct table, its frame, too. */
function wrongChild(pages: ShadowPages, sp: ShadowPage, index: number, child: ShadowPage): string | null {
  const { profile } = pages.config;
  const access = roleAccess(child.role, profile);
  const expected = childRole(profile, sp.role, { direct: child.direct, access, parentIndex: index });
  if (child.role !== expected)
    return `leads to a table of role ${child.role.toString(16)}, not ${expected.toString(16)}`;
  if (sp.direct && (!child.direct || child.gfn !== sp.gfnAt(index))) {
    return `leads to a table for gfn ${child.gfn.toString(16)}`;
  }
  if ((access & ~roleAccess(sp.role, profile)) === 0) return null;
  return mayLackWp(sp, profile) ? null : 'leads to a table with more rights than its own';
}

function mayLackWp(sp: ShadowPage, profile: '6.1' | '7.3'): boolean {
  return !guestMode(sp.role) && !cr0Wp(sp.role, profile);
}

/** `access`: what may be given at most, `ACC_*`. */
function exceeds(pages: ShadowPages, lo: number, hi: number, access: number): boolean {
  return (spteAccess(pages, lo, hi) & ~access) !== 0;
}

/** Rights of a leaf; what it may become writable by counts as writable. */
function spteAccess(pages: ShadowPages, lo: number, hi: number): number {
  const { format, config } = pages;
  const write = (lo & SPTE_W) !== 0 || format.isMmuWritable(lo, hi) ? ACC_WRITE : 0;
  if (!format.ept) {
    return ACC_READ | write | (format.userExecute(lo) ? ACC_USER : 0) | (format.isExecutable(lo, hi) ? ACC_EXEC : 0);
  }
  const readable = (lo & 1) !== 0 ? (config.profile === '6.1' ? ACC_USER : ACC_READ) : 0;
  const userExecutable = config.profile !== '6.1' && format.userExecute(lo) ? ACC_USER : 0;
  return write | readable | userExecutable | (format.isExecutable(lo, hi) ? ACC_EXEC : 0);
}

function againstEntry(
  pages: ShadowPages,
  sp: ShadowPage,
  { index, lo, hi }: Entry,
  child: ShadowPage | null,
  entry: GuestEntry,
): string | null {
  if (!entry.present || !entry.accessed) return 'is there, and the guest has nothing there, or never used it';
  if (entry.reserved) return "is there, and the guest's entry has reserved bits or is misconfigured";
  const above = roleAccess(sp.role, pages.config.profile) & entry.access;
  if (child !== null && !child.direct) {
    if (child.gfn !== entry.tableGfn) {
      return `leads to a table for gfn ${child.gfn.toString(16)}, the guest's to ${entry.tableGfn.toString(16)}`;
    }
    return (roleAccess(child.role, pages.config.profile) ^ above) === 0 ? null : 'leads to a table with other rights';
  }
  if (sp.level > 1 && !entry.large) return 'maps a page, and the guest has a table there';
  const gfn = child === null ? sp.gfnAt(index) : child.gfn;
  const expected = entry.pageGfn + offsetInLargePage(sp, index);
  if (gfn !== expected) return `is for gfn ${gfn.toString(16)}, the guest's entry for ${expected.toString(16)}`;
  const access = child === null ? spteAccess(pages, lo, hi) : roleAccess(child.role, pages.config.profile);
  return isWithin(pages, sp, access, above, entry.dirty) ? null : "gives more than the guest's entry";
}

/** The guest's large page with 4-byte entries is two SPTEs large. */
function offsetInLargePage(sp: ShadowPage, index: number): number {
  return has4ByteGpte(sp.role) && sp.level === 2 ? (index & 1) * pagesOf(2) : 0;
}

/** A clean page is not writable, since KVM must see the first write; with CR0.WP clear a page may be a supervisor's own. */
function isWithin(pages: ShadowPages, sp: ShadowPage, access: number, above: number, dirty: boolean): boolean {
  const { profile } = pages.config;
  if ((access & ~(dirty ? above : above & ~ACC_WRITE)) === 0) return true;
  if (!dirty || !mayLackWp(sp, profile)) return false;
  const supervisor = (above | ACC_WRITE) & ~ACC_USER & ~(smepWithoutWp(sp.role, profile) ? ACC_EXEC : 0);
  // Without SMEP what only a supervisor may use stays executable for it, as the guest's entry says.
  return (access & ~supervisor) === 0;
}

function readEntry(pages: ShadowPages, view: GuestView, sp: ShadowPage, index: number, at: number): GuestEntry {
  const { words } = view.guest.memory;
  const { config } = pages;
  if (has4ByteGpte(sp.role)) {
    const entries = ENTRIES / sp.level;
    const entry = words[at + quadrant(sp.role) * entries + (sp.level === 2 ? index >>> 1 : index)]!;
    const large = sp.level === 2;
    return {
      ...x86Entry(entry, 0),
      reserved: false,
      large: large && (entry & PAGE_SIZE) !== 0,
      tableGfn: entry >>> 12,
      pageGfn: large ? (entry >>> 22) * 0x400 + ((entry >>> 13) & 0xf) * 0x10_0000 : entry >>> 12,
    };
  }
  const lo = words[at + 2 * index]!;
  const hi = words[at + 2 * index + 1]!;
  // With TDP, tables of a guest that are shadowed are L1's second stage.
  const ept = config.tdp && config.vendor === 'intel';
  const tableGfn = frameOfEntry(lo, hi);
  return {
    ...(ept ? eptEntry(lo, config.profile, sp) : x86Entry(lo, hi)),
    reserved: config.tdp && (ept ? isMisconfigured : isReserved)(pages, view.features, sp, lo, hi),
    large: (lo & PAGE_SIZE) !== 0,
    tableGfn,
    pageGfn: tableGfn - (tableGfn % pagesOf(sp.level)),
  };
}

type Bits = Pick<GuestEntry, 'present' | 'accessed' | 'dirty' | 'access'>;

function x86Entry(lo: number, hi: number): Bits {
  return {
    present: (lo & PRESENT) !== 0,
    accessed: (lo & (1 << 5)) !== 0,
    dirty: (lo & (1 << 6)) !== 0,
    access: (lo & (ACC_READ | ACC_WRITE | ACC_USER)) | (hi < 0 ? 0 : ACC_EXEC),
  };
}

function eptEntry(lo: number, profile: '6.1' | '7.3', sp: ShadowPage): Bits {
  const noAd = adDisabled(sp.role);
  const mbec = cr4SmepOfPage(sp.role, profile);
  const read = profile === '6.1' ? ACC_READ | ((lo & 1) << 2) : (lo & ACC_READ) | ((lo >>> 8) & ACC_USER);
  return {
    present: (lo & (mbec ? EPT_RWX | EPT_USER_EXECUTE : EPT_RWX)) !== 0,
    accessed: noAd || (lo & (1 << 8)) !== 0,
    dirty: noAd || (lo & (1 << 9)) !== 0,
    access: read | (lo & ACC_WRITE) | ((lo & 4) << 1),
  };
}

/** Of an entry of L1's EPT. */
function isMisconfigured(
  pages: ShadowPages,
  features: PagingFeatures,
  sp: ShadowPage,
  lo: number,
  hi: number,
): boolean {
  const { maxphyaddr, eptExecuteOnly: executeOnly, ept2m: page2m, ept1g: page1g } = features;
  const mbec = cr4SmepOfPage(sp.role, pages.config.profile);
  const kind = EPT_ENTRY_KINDS[eptKindsAt({ executeOnly, mbec, page2m, page1g }) + (sp.level << 9) + eptKey(lo)];
  return kind === EptEntry.MISCONFIGURED || (hi & FRAME_HI) >>> (maxphyaddr - 32) !== 0;
}

function eptKey(lo: number): number {
  return (lo & 0xff) | ((lo >>> 2) & 0x100);
}

/**
 * Of an entry of L1's NPT, by the rules for 4 and 5 levels: the page's role does not say whether it is one of PAE's, for
 * which more is reserved.
 */
function isReserved(pages: ShadowPages, features: PagingFeatures, sp: ShadowPage, lo: number, hi: number): boolean {
  const { maxphyaddr, page1g, amd } = features;
  const masks = reservedLongMode({ maxphyaddr, page1g, amd, nx: eferNx(sp.role, pages.config.profile) });
  const at = reservedIndex(sp.level, lo);
  return ((lo & masks.lo[at]!) | (hi & masks.hi[at]!)) !== 0;
}
