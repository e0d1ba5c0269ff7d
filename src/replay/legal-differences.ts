/**
 * Where a guest on KVM lawfully sees something else than on a bare processor (design §4, "The strongest check"): a
 * closed, numbered list.
 *
 * An entry does not excuse a difference by its circumstances. It says how the processor that the guest has under KVM
 * differs from the recorded one, as a change of registers or of the access; the bare machine makes the access again so,
 * and only if that gives exactly what the guest on KVM saw is the difference the entry's.
 *
 * Numbers that are missing are design §4's differences that need no entry: staleness (4) is judged by
 * `machine/lawful.ts`; accessed bits of walks that fault (1) are set by neither machine; memory that no memslot has (5)
 * reads as not present on both; implicit accesses under SMAP (8) no access has met.
 */

import type { KvmConfig } from '../formats/kvm-config.ts';
import {
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  CR4_PKE,
  CR4_PKS,
  CR4_PSE,
  CR4_SMAP,
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
import {
  ACCESS_SHADOW_STACK,
  ACCESS_SOFTWARE,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
} from '../formats/step.ts';

/** An access, and the processor that makes it, which an entry may change. */
export interface GuestView {
  /** Word of the ACCESS step. */
  op: number;
  /** 2 elements each, in the order of `Reg`; a copy. */
  readonly registers: Uint32Array;
  readonly config: KvmConfig;
  /** Page faults of fetches say that they were fetches, whatever the registers say. */
  reportsFetches: boolean;
  /** EPT violations and nested page faults are told to the hypervisor in the guest as KVM tells them. */
  reportedByKvm: boolean;
  /** KVM's emulator makes the access, not the processor. */
  emulated: boolean;
  /** KVM learns of the access by an EPT misconfiguration, which says nothing of it. */
  untold: boolean;
  /** A full page-modification log keeps no accessed flag from being set. */
  logsDirtyOnly: boolean;
  /** Each translation by NPT within the walk may be one that was made with the other CR4.PSE. */
  eitherPse: boolean;
  /** The emulator asks EPT about the page that it is after as a processor would, not for read access in any case. */
  fetchesWithoutRead: boolean;
  /** What the guest's own flags do to an entry of EPT that they are set in goes unnoticed. */
  untrackedFlags: boolean;
  /** Where walks find the PDPTEs, whatever the second stage: in the registers, or in memory each time. */
  pdptesIn: 'registers' | 'memory' | undefined;
  /** The PDPTEs that KVM has loaded last, two halves each. */
  readonly pdptesOfKvm: () => Int32Array;
  /** The guest on KVM got through to memory. If not, its fault comes from KVM's own walk of the guest's tables. */
  readonly translated: boolean;
  /** Its hypervisor, on KVM, got an exit because of EPT or NPT. */
  readonly exited: boolean;
  /** The processor meets memory without a slot, or a read-only one, or finds a table of L2's in a table that KVM shadows. */
  readonly reachesDevice: () => boolean;
}

export interface LegalDifference {
  /** Stable, never used again for another one. */
  readonly number: number;
  /** Stable kebab-case name. */
  readonly name: string;
  readonly citation: string;
  /** One sentence. */
  readonly sentence: string;
  /** Makes the view the one that the guest has under KVM. False: the entry has nothing to do with this access. */
  readonly change: (view: GuestView) => boolean;
}

const WRITES: ReadonlySet<number> = new Set([AccessType.WRITE, AccessType.RMW]);

function low(view: GuestView, register: number): number {
  return view.registers[2 * register]!;
}

function pages(view: GuestView): boolean {
  return (low(view, Reg.CR0) & CR0_PG) !== 0;
}

/** The processor walks KVM's shadow tables for the access, not the guest's. */
function shadowed(view: GuestView): boolean {
  return !view.config.tdp && pages(view) && (view.op & ACCESS_SOFTWARE) === 0;
}

/** The access went through on a shadow entry, which may have been made when the guest had set up something else. */
function servedByShadow(view: GuestView): boolean {
  return shadowed(view) && view.translated;
}

/** A guest of the guest's runs on EPT12. */
function underEpt(view: GuestView): boolean {
  return low(view, Reg.GUEST_MODE) === GuestMode.VMX && (low(view, Reg.SECONDARY_CONTROLS) & SECONDARY_EPT) !== 0;
}

/** A guest of the guest's runs on NPT12. */
function underNpt(view: GuestView): boolean {
  return low(view, Reg.GUEST_MODE) === GuestMode.SVM && (low(view, Reg.NESTED_CONTROL) & NESTED_NP_ENABLE) !== 0;
}

/** NPT12 has entries of 4 bytes. */
function underNpt32(view: GuestView): boolean {
  return underNpt(view) && (low(view, Reg.HOST_CR4) & CR4_PAE) === 0;
}

function isFetch(view: GuestView): boolean {
  return ((view.op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK) === AccessType.FETCH;
}

/**
 * KVM's emulator makes an access of the guest's guest that ends in an exit: a write, of whose frame KVM may know more than
 * the guest, or one that meets memory which the processor cannot simply use.
 */
function emulates(view: GuestView): boolean {
  if (!view.exited || (view.op & ACCESS_SOFTWARE) !== 0) return false;
  const writes = WRITES.has((view.op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK);
  if (!view.reachesDevice() && !writes) return false;
  view.op |= ACCESS_SOFTWARE;
  view.emulated = true;
  return true;
}

export const LEGAL_DIFFERENCES: readonly LegalDifference[] = [
  {
    number: 2,
    name: 'tables-read-for-writing',
    citation: 'facts/kvm-mmu.md §5.2 step 3 (nested_access has W), §6.6 (a write to a shadowed frame is emulated)',
    sentence:
      "An access that KVM's emulator makes for the guest's guest asks EPT for write access to its page tables, which a processor without EPT A/D bits only reads.",
    change(view) {
      const ad = (low(view, Reg.EPTP) & EPTP_AD) !== 0;
      return underEpt(view) && !ad && emulates(view);
    },
  },
  {
    number: 3,
    name: 'nx-forced-on',
    citation: 'facts/kvm-mmu.md §2.5 (shadow root_mmu: efer_nx forced to 1)',
    sentence:
      'Shadow tables are walked with NX on whatever EFER.NXE says: a shadow entry made while the guest had NX on goes on working.',
    change(view) {
      const off = (low(view, Reg.CR4) & CR4_PAE) !== 0 && (low(view, Reg.EFER) & EFER_NXE) === 0;
      if (!servedByShadow(view) || !off) return false;
      view.registers[2 * Reg.EFER] = (low(view, Reg.EFER) | EFER_NXE) >>> 0;
      return true;
    },
  },
  {
    number: 6,
    name: 'exits-reported-by-kvm',
    citation: 'facts/kvm-mmu.md §5.4, §7.2, §7.3; facts/kvm-6.1.md §7.1',
    sentence:
      "Qualifications of EPT violations and EXITINFO1 of emulated accesses come from KVM's own walk: 6.1 knows bits 5:0 and 8:7 only, 7.3 no shadow stacks, and what the emulator meets has no exit of the processor's behind it. A table without a slot is not read: the rights are those above it.",
    change(view) {
      if (!view.exited || !(underEpt(view) || underNpt(view))) return false;
      view.reportedByKvm = true;
      return true;
    },
  },
  {
    number: 7,
    name: 'protection-keys-hidden',
    citation: 'facts/kvm-mmu.md §3.2, §6.11 (an SPTE has no key); KVM offers PKU with TDP only, PKS never',
    sentence: 'With shadow paging the processor looks at SPTEs, which have no protection key: no key denies anything.',
    change(view) {
      // KVM's walk knows the keys of user pages, and no others.
      const keys = servedByShadow(view) ? CR4_PKE | CR4_PKS : CR4_PKS;
      if (!shadowed(view) || (low(view, Reg.EFER) & EFER_LMA) === 0 || (low(view, Reg.CR4) & keys) === 0) return false;
      view.registers[2 * Reg.CR4] = (low(view, Reg.CR4) & ~keys) >>> 0;
      return true;
    },
  },
  {
    number: 9,
    name: 'shadow-stacks-hidden',
    citation: 'SDM vol. 3A 4.6 (a shadow-stack page: W=0, D=1); facts/kvm-mmu.md §6.11 (an SPTE has D with W only)',
    sentence:
      'With shadow paging no SPTE says that a page is of a shadow stack: an access to one is judged as an ordinary one.',
    change(view) {
      if (!shadowed(view) || (view.op & ACCESS_SHADOW_STACK) === 0) return false;
      view.op &= ~ACCESS_SHADOW_STACK;
      return true;
    },
  },
  {
    number: 10,
    name: 'pdptes-on-demand',
    citation: 'APM vol. 2 15.25.10',
    sentence: 'Under NPT the PDPTEs of PAE paging are read from memory on each walk; without it, when CR3 is loaded.',
    change(view) {
      const { config } = view;
      const pae = (low(view, Reg.CR4) & CR4_PAE) !== 0 && (low(view, Reg.EFER) & EFER_LMA) === 0;
      if (!config.tdp || config.vendor !== 'amd' || !pages(view) || !pae) return false;
      view.pdptesIn = 'memory';
      return true;
    },
  },
  {
    number: 11,
    name: 'pse-not-in-shadow-role',
    citation: 'facts/kvm-mmu.md §2.2, §2.5 (CR4.PSE is in the extended role only); traces/kvm/b_pse_npt0.rwt has it',
    sentence:
      'Shadow pages are found by a role without CR4.PSE: a shadow entry made with PSE on goes on working with PSE off, and the other way; of NPT for each translation by itself.',
    change(view) {
      if (underNpt32(view) && (view.op & ACCESS_SOFTWARE) === 0) {
        view.eitherPse = true;
        return true;
      }
      if (!servedByShadow(view) || (low(view, Reg.CR4) & CR4_PAE) !== 0) return false;
      view.registers[2 * Reg.CR4] = (low(view, Reg.CR4) ^ CR4_PSE) >>> 0;
      return true;
    },
  },
  {
    number: 12,
    name: 'smap-off-for-kernel-copies',
    citation: 'facts/kvm-mmu.md §6.4 step 4',
    sentence:
      'A read-only user page that the supervisor wrote to with CR0.WP clear is a supervisor page in the shadow table, which SMAP does not guard.',
    change(view) {
      const wp = (low(view, Reg.CR0) & CR0_WP) !== 0;
      const smap = (low(view, Reg.CR4) & CR4_SMAP) !== 0;
      if (!servedByShadow(view) || wp || !smap || (view.op & ACCESS_USER) !== 0) return false;
      view.registers[2 * Reg.CR4] = (low(view, Reg.CR4) & ~CR4_SMAP) >>> 0;
      return true;
    },
  },
  {
    number: 13,
    name: 'fetches-reported-without-pae',
    citation:
      'facts/kvm-mmu.md §2.3 step 5 (has_pferr_fetch = efer_nx | cr4_smep); SDM vol. 3A 4.7 (PAE and NXE, or SMEP)',
    sentence:
      "With EFER.NXE set, and of NPT with GMET, the error codes of KVM's own walks tell fetches apart also in 32-bit paging.",
    change(view) {
      if (view.exited) {
        const tells =
          (low(view, Reg.HOST_EFER) & EFER_NXE) !== 0 || (low(view, Reg.NESTED_CONTROL) & NESTED_GMET) !== 0;
        if (!underNpt32(view) || !isFetch(view) || !tells) return false;
        view.reportsFetches = true;
        return true;
      }
      const pae = (low(view, Reg.CR4) & CR4_PAE) !== 0;
      if (!pages(view) || view.translated || !isFetch(view) || pae || (low(view, Reg.EFER) & EFER_NXE) === 0)
        return false;
      view.reportsFetches = true;
      return true;
    },
  },
  {
    number: 14,
    name: 'mbec-not-offered',
    citation: 'facts/kvm-6.1.md §7.1 (no MBEC, no GMET)',
    sentence: '6.1 offers no mode-based execute control to its guests: X alone decides about fetches.',
    change(view) {
      const controls = low(view, Reg.SECONDARY_CONTROLS);
      if (view.config.profile !== '6.1' || !underEpt(view) || (controls & SECONDARY_MBEC) === 0) return false;
      view.registers[2 * Reg.SECONDARY_CONTROLS] = (controls & ~SECONDARY_MBEC) >>> 0;
      return true;
    },
  },
  {
    number: 15,
    name: 'gmet-not-offered',
    citation: 'facts/kvm-6.1.md §7.1 (no MBEC, no GMET)',
    sentence: '6.1 offers no guest-mode execute trap to its guests.',
    change(view) {
      const control = low(view, Reg.NESTED_CONTROL);
      if (view.config.profile !== '6.1' || !underNpt(view) || (control & NESTED_GMET) === 0) return false;
      view.registers[2 * Reg.NESTED_CONTROL] = (control & ~NESTED_GMET) >>> 0;
      return true;
    },
  },
  {
    number: 16,
    name: 'fetches-without-read',
    citation: 'facts/kvm-mmu.md §3.1',
    sentence:
      "6.1's emulator needs read access in EPT for whatever it does, as the bare machine has it; that of 7.3 fetches from execute-only pages.",
    change(view) {
      const software = (view.op & ACCESS_SOFTWARE) !== 0;
      if (view.config.profile === '6.1' || !underEpt(view) || !software || !isFetch(view) || !view.translated)
        return false;
      view.fetchesWithoutRead = true;
      return true;
    },
  },
  {
    number: 17,
    name: 'emulated-for-its-guest',
    citation: 'facts/kvm-mmu.md §6.6, §6.7 (what has no slot, or is shadowed, is emulated), §5.4',
    sentence:
      "What the guest's guest cannot do on KVM's tables KVM's emulator does: it meets EPT or NPT in its own order and tells the page, not the address.",
    change(view) {
      const ad = (low(view, Reg.EPTP) & EPTP_AD) !== 0;
      return (underNpt(view) || (underEpt(view) && ad)) && emulates(view);
    },
  },
  {
    number: 18,
    name: 'accessed-set-with-full-log',
    citation: 'SDM vol. 3C 29.3.6; facts/kvm-mmu.md §5.5, §7.3',
    sentence:
      'A processor needs room in the page-modification log to set any flag in EPT; KVM looks at the log only to set dirty flags.',
    change(view) {
      const logs = (low(view, Reg.SECONDARY_CONTROLS) & SECONDARY_PML) !== 0;
      if (!underEpt(view) || !logs || (low(view, Reg.EPTP) & EPTP_AD) === 0) return false;
      view.logsDirtyOnly = true;
      return true;
    },
  },
  {
    number: 19,
    name: 'device-accesses-untold',
    citation: 'facts/kvm-mmu.md §6.7, §7.3 (bits 8:7 from the exit); SDM vol. 3C 28.2.1 (no qualification)',
    sentence:
      'Memory without a slot is met as an EPT misconfiguration, which does not tell what access it was: where KVM then finds EPT forbidding it, 7.3 reports a read without a linear address, 6.1 none of the three.',
    change(view) {
      if (!underEpt(view) || !view.exited || (view.op & ACCESS_SOFTWARE) !== 0 || !view.reachesDevice()) return false;
      view.op = (view.op & ~(ACCESS_TYPE_MASK << ACCESS_TYPE_SHIFT)) | (AccessType.READ << ACCESS_TYPE_SHIFT);
      view.reportedByKvm = true;
      view.untold = true;
      return true;
    },
  },
  {
    number: 20,
    name: 'read-only-table',
    citation: 'facts/kvm-6.1.md §4.1 (a write to a table that faults: its frame is unprotected, nothing emulated)',
    sentence:
      '6.1 lets a processor that wants to set a flag in a table that lies in a read-only slot try again and again: what is shadowed is unprotected, nothing emulated, and the guest never gets on.',
    // Told by the guest's not getting on, not by making the access on another processor.
    change: () => false,
  },
  {
    number: 21,
    name: 'own-flags-untracked',
    citation:
      'facts/kvm-mmu.md §5.5 (A and D are set by a compare-and-exchange of host memory), §6.6 (what is tracked)',
    sentence:
      "Where a table of EPT is at the same time one of L2's own tables, an accessed or dirty flag that KVM's walker sets there makes the entry a misconfiguration; KVM's shadow of it stays.",
    change(view) {
      if (!underEpt(view)) return false;
      view.untrackedFlags = true;
      return true;
    },
  },
  {
    number: 22,
    name: 'pdptes-left-over',
    citation:
      'facts/kvm-mmu.md §4 (reserved bits fail the load), §8.6 (marked for lazy reload with NPT); APM vol. 2 15.25.10',
    sentence:
      'Under NPT a processor reads the one PDPTE that it needs; KVM, which makes an access for its guest, loads all four, and where one has a reserved bit set goes on with those that it had.',
    change(view) {
      const { config, registers } = view;
      const pae = (low(view, Reg.CR4) & CR4_PAE) !== 0 && (low(view, Reg.EFER) & EFER_LMA) === 0;
      if (!config.tdp || config.vendor !== 'amd' || !pages(view) || !pae || view.translated) return false;
      if ((view.op & ACCESS_SOFTWARE) === 0 && !view.reachesDevice()) return false;
      registers.set(view.pdptesOfKvm(), 2 * Reg.PDPTE0);
      view.pdptesIn = 'registers';
      view.emulated = true;
      view.op |= ACCESS_SOFTWARE;
      return true;
    },
  },
  {
    number: 23,
    name: 'device-accesses-emulated',
    citation: 'facts/kvm-mmu.md §6.7; facts/kvm-6.1.md §4.1 (RSVD: handle_mmio)',
    sentence:
      "Memory without a slot is met by KVM's emulator, which reads what it is going to change first: of a read-modify-write that faults the error code is that of the read, and says that it was a write.",
    change(view) {
      if (view.translated || view.exited || (view.op & ACCESS_SOFTWARE) !== 0 || !view.reachesDevice()) return false;
      view.op |= ACCESS_SOFTWARE;
      view.emulated = true;
      return true;
    },
  },
];
