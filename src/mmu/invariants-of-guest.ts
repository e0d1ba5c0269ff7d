/**
 * Whether an entry of a shadow table gives more than the guest's tables give, read anew from guest memory by the format
 * that the table's own role names: its guest may be in another paging mode by now (facts/kvm-mmu.md §2.1, §4, §6.4).
 */

import { frameOf as frameOfEntry } from '../paging/guest-memory.ts';
import {
  adDisabled,
  childRole,
  cr0Wp,
  guestMode,
  has4ByteGpte,
  quadrant,
  roleAccess,
  smepWithoutWp,
  smm,
} from '../paging/kvm-roles.ts';
import { ACC_EXEC, ACC_READ, ACC_USER, ACC_WRITE } from '../paging/permissions.ts';
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

const PRESENT = 1 << 0;
const PAGE_SIZE = 1 << 7;
const EPT_RWX = 7;
const EPT_USER_EXECUTE = 1 << 10;

/** What a guest entry says, as far as an SPTE repeats it. */
interface GuestEntry {
  readonly present: boolean;
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
 * Null, or what is wrong with a present entry of a table, whose halves are `lo`, `hi`: rights beyond those of the table,
 * or another frame or more rights than the guest's entry gives, unless the table is unsync or its guest's `unnoticed`.
 */
export function rightsBeyond(
  pages: ShadowPages,
  guest: GuestTables,
  sp: ShadowPage,
  index: number,
  lo: number,
  hi: number,
  unnoticed: (gfn: number) => boolean,
): string | null {
  const leaf = pages.format.isLeaf(lo, sp.level);
  const child = leaf ? null : pages.childOf(lo, hi);
  if (child !== null) {
    const wrong = wrongChild(pages, sp, index, child);
    if (wrong !== null) return wrong;
  }
  const { profile } = pages.config;
  const given = roleAccess(sp.role, profile);
  if (!pages.hasGptes(sp)) {
    if (child !== null) return null;
    return exceeds(pages, lo, hi, given) ? 'gives more than the role of its table' : null;
  }
  if (leaf && exceeds(pages, lo, hi, sp.accesses![index]!)) return 'gives more than it was last mapped with';
  const at = guest.pageIndexOf(sp.gfn, smm(sp.role));
  if (sp.unsync || at < 0 || unnoticed(sp.gfn)) return null;
  return againstEntry(pages, sp, index, child, readEntry(pages, guest, sp, index, at), lo, hi);
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
  index: number,
  child: ShadowPage | null,
  entry: GuestEntry,
  lo: number,
  hi: number,
): string | null {
  if (!entry.present || !entry.accessed) return 'is there, and the guest has nothing there, or never used it';
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

function readEntry(pages: ShadowPages, guest: GuestTables, sp: ShadowPage, index: number, at: number): GuestEntry {
  const { words } = guest.memory;
  const { config } = pages;
  if (has4ByteGpte(sp.role)) {
    const entries = ENTRIES / sp.level;
    const entry = words[at + quadrant(sp.role) * entries + (sp.level === 2 ? index >>> 1 : index)]!;
    const large = sp.level === 2;
    return {
      ...x86Entry(entry, 0),
      large: large && (entry & PAGE_SIZE) !== 0,
      tableGfn: entry >>> 12,
      pageGfn: large ? (entry >>> 22) * 0x400 + ((entry >>> 13) & 0xf) * 0x10_0000 : entry >>> 12,
    };
  }
  const lo = words[at + 2 * index]!;
  const hi = words[at + 2 * index + 1]!;
  const ept = config.tdp && config.vendor === 'intel' && guestMode(sp.role);
  const tableGfn = frameOfEntry(lo, hi);
  return {
    ...(ept ? eptEntry(lo, config.profile, adDisabled(sp.role)) : x86Entry(lo, hi)),
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

function eptEntry(lo: number, profile: '6.1' | '7.3', noAd: boolean): Bits {
  const read = profile === '6.1' ? ACC_READ | ((lo & 1) << 2) : (lo & ACC_READ) | ((lo >>> 8) & ACC_USER);
  return {
    present: (lo & (EPT_RWX | EPT_USER_EXECUTE)) !== 0,
    accessed: noAd || (lo & (1 << 8)) !== 0,
    dirty: noAd || (lo & (1 << 9)) !== 0,
    access: read | (lo & ACC_WRITE) | ((lo & 4) << 1),
  };
}
