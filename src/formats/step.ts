/**
 * The step word: 32 bits that say what a step is. It travels in the trace file's `op` column and drives the machine
 * as it is; nothing decodes it into an object on the way.
 *
 * | bits | meaning                                  |
 * | ---- | ---------------------------------------- |
 * | 4:0  | kind, one of `StepKind`                  |
 * | 6:5  | provenance, one of `Provenance`          |
 * | 31:7 | by kind, see the constants below         |
 *
 * A step also has two 64-bit operands, `address` and `operand`; each kind's comment says what they hold.
 */

import { namesByNumber } from './names.ts';

export const StepKind = {
  /** A rare stimulus: `operand` is the index of its message in the chunk's `stimulus` list. */
  RARE: 0,
  /** A memory access. `address`: linear address. `operand`: the physical address expected, if ACCESS_EXPECTS_ADDRESS. */
  ACCESS: 1,
  /** Physical memory changes: `address` the physical address, `operand` the value (STORE_SIZE bytes of it). */
  STORE: 2,
  /** A page of physical memory becomes zero: `address` = its physical address, 4 KiB aligned. */
  CLEAR_PAGE: 3,
  /** The guest writes a register by an instruction, with its architectural side effects. `operand`: the source operand. */
  REGISTER_WRITE: 4,
  /** A register is known to hold `operand` from here on; how it came by that is not part of the recording. */
  REGISTER_SET: 5,
  /**
   * An invalidation instruction. `address`: linear address. `operand`: PCID, VPID, ASID or EPTP by instruction. Of an
   * EPTP switch (VMFUNC leaf 0) `operand` is the EPTP switched to; if 0, `address` is the index in the EPTP list.
   */
  INVALIDATE: 6,
  /** VM entry or VMRUN into the guest mode and state that the REGISTER_SET steps before and after it give. */
  NESTED_ENTRY: 7,
  /** VM exit or #VMEXIT. `operand`: exit reason or code; `address`: exit qualification or EXITINFO1. */
  NESTED_EXIT: 8,
  /** A guest-physical address is translated outside a linear walk. `address`: guest-physical address. */
  GPA_ACCESS: 9,
  /** The four PDPTE registers are loaded from memory (SDM vol. 3A 4.4.1). `address`: CR3. */
  PDPTE_LOAD: 10,
  /**
   * A fault reaches the hypervisor: `address` and `operand` as `kvm_page_fault` prints them (CR2 and error code; guest-
   * physical address and EXITINFO1 or EPT qualification). KVM machine only, like all that follow.
   */
  FAULT_EXIT: 11,
  /** The hypervisor enters the guest, after it has served its requests. */
  VM_ENTRY: 12,
  /**
   * The hypervisor's software needs a linear address: its instruction emulator, or KVM_TRANSLATE. `operand`: the access
   * as error-code bits W, U, F.
   */
  SOFTWARE_WALK: 13,
  /** What the host's memory management has under a run of guest frames: `address` GPA of the first, `operand` how many. */
  HOST_PAGES: 14,
  /**
   * The steps from here on are those of vCPU `operand` (0 to 63; a segment begins with vCPU 0). A vCPU that was not seen
   * before is as after a reset: all registers 0, nothing cached. Memory is common to all.
   */
  VCPU: 15,
} as const;

/** Names by number, as `--kind` and the counts spell them. */
export const STEP_KIND_NAMES = namesByNumber(StepKind);

export const STEP_KIND_MASK = 0x1f;

/** How an operand is known. */
export const Provenance = {
  /** The recorder wrote it down when it happened. */
  RECORDED: 0,
  /** The guest announced it just before doing it. */
  MARK: 1,
  /** Found in a dump of memory or state. */
  DUMP: 2,
  /** Concluded by the importer, e.g. from an entry that a later walk read. */
  INFERRED: 3,
} as const;

export const PROVENANCE_NAMES = namesByNumber(Provenance);

export const PROVENANCE_SHIFT = 5;
export const PROVENANCE_MASK = 3;

// ACCESS and GPA_ACCESS
export const AccessType = { READ: 0, WRITE: 1, FETCH: 2, RMW: 3 } as const;
/** `read`, `write`, `fetch`, `rmw`: the keys of the text form. */
export const ACCESS_TYPE_NAMES = namesByNumber(AccessType);
/** The same as prose. */
export const ACCESS_NAMES: readonly string[] = ['read', 'write', 'fetch', 'read-modify-write'];
export const ACCESS_TYPE_SHIFT = 7;
export const ACCESS_TYPE_MASK = 3;
/** Shadow-stack access (SDM vol. 1 ch. 17). */
export const ACCESS_SHADOW_STACK = 1 << 9;
/** User-mode access. Clear with CPL 3: an implicit supervisor access. */
export const ACCESS_USER = 1 << 10;
export const ACCESS_CPL_SHIFT = 11;
export const ACCESS_CPL_MASK = 3;
/** RFLAGS.AC is set. */
export const ACCESS_AC = 1 << 13;
/** The recorder saw the processor walk the tables for this access: no TLB entry served it. */
export const ACCESS_WALKED = 1 << 14;
/** Through the stack segment: a non-canonical address raises #SS, not #GP. */
export const ACCESS_STACK = 1 << 15;
/** The expected outcome is a translation to the physical address in `operand` (the commonest observation has no row). */
export const ACCESS_EXPECTS_ADDRESS = 1 << 16;
/** Whether the step expects, without a row for it, a translation to the address in its operand. */
export function expectsAddress(op: number): boolean {
  return (op & STEP_KIND_MASK) === StepKind.ACCESS && (op & ACCESS_EXPECTS_ADDRESS) !== 0;
}
/** Translated by the hypervisor's software on the guest's behalf, not by the processor. */
export const ACCESS_SOFTWARE = 1 << 17;
/** GPA_ACCESS: the paging-structure entry case (`p`), not the final address. */
export const ACCESS_OF_TABLE = 1 << 18;
/** Bytes of the access within its page, 0 = unknown. */
export const ACCESS_LENGTH_SHIFT = 19;
export const ACCESS_LENGTH_MASK = 0x1fff;

// STORE
/** Size in bytes: 1, 2, 4 or 8. */
export const STORE_SIZE_SHIFT = 7;
export const STORE_SIZE_MASK = 0xf;
/** Nobody is known to have stored: memory was found to hold this value (first sight, or changed unseen). */
export const STORE_KNOWLEDGE = 1 << 11;

/** The hypervisor's instruction emulator stores, not the processor. */
export const STORE_EMULATED = 1 << 12;

// FAULT_EXIT
/** An EPT misconfiguration, for which no `kvm_page_fault` is printed; `operand` is 0. */
export const FAULT_MISCONFIG = 1 << 7;
/** An event was being delivered to the guest when it faulted (exit interruption or IDT vectoring information). */
export const FAULT_DURING_EVENT = 1 << 8;
/** RFLAGS.AC was set. */
export const FAULT_AC = 1 << 9;
/** The guest was at CPL 3. */
export const FAULT_CPL3 = 1 << 10;

// SOFTWARE_WALK
/** A failure is dropped, the guest learns nothing of it (KVM_TRANSLATE, CR2 looked up to unprotect its page). */
export const SOFTWARE_QUIET = 1 << 7;
/** The instruction emulator's own operand: what it finds may be MMIO, and it may know the address without a walk. */
export const SOFTWARE_OPERAND = 1 << 8;
/** An implicit supervisor access: descriptor tables, TSS. */
export const SOFTWARE_IMPLICIT = 1 << 9;
/** RFLAGS.AC is set. */
export const SOFTWARE_AC = 1 << 10;
/** What is read will be written, too: a failure to read is reported as one to write. */
export const SOFTWARE_RMW = 1 << 11;

// HOST_PAGES
/** One of `HostPage`. */
export const HOST_PAGE_SHIFT = 7;
export const HOST_PAGE_MASK = 3;
export const HostPage = {
  /** Nothing is mapped: a read brings the zero page, a write a page of its own. */
  ABSENT: 0,
  /** The zero page, or another page that may only be read: a write copies it, which the notifier tells. */
  READ_ONLY: 1,
  /** A page of its own, writable. */
  WRITABLE: 2,
} as const;
export const HOST_PAGE_NAMES = namesByNumber(HostPage);
/** log2 of the size of the host's mapping: level 1 (4 KiB), 2 (2 MiB), 3 (1 GiB). */
export const HOST_LEVEL_SHIFT = 9;
export const HOST_LEVEL_MASK = 3;

// REGISTER_WRITE and REGISTER_SET
export const STEP_REGISTER_SHIFT = 7;
export const STEP_REGISTER_MASK = 0x3f;
/** REGISTER_WRITE: a task switch writes CR3 (never keeps translations, whatever bit 63 says). */
export const REGISTER_WRITE_TASK_SWITCH = 1 << 13;

// INVALIDATE
export const Invalidation = { INVLPG: 0, INVPCID: 1, INVEPT: 2, INVVPID: 3, INVLPGA: 4, EPTP_SWITCH: 5 } as const;
export const INVALIDATION_SHIFT = 7;
export const INVALIDATION_MASK = 0xf;
/** The type operand of INVPCID (0-3), INVEPT (1-2) and INVVPID (0-3). */
export const INVALIDATION_TYPE_SHIFT = 11;
export const INVALIDATION_TYPE_MASK = 7;

// VCPU
/** vCPUs that a segment can have. */
export const MAXIMUM_VCPUS = 64;

// NESTED_ENTRY and NESTED_EXIT
export const NESTED_SVM = 1 << 7;
/** VMCB TLB_CONTROL of a VMRUN (APM vol. 2 15.16.2): 0 nothing, 1 all, 3 this ASID, 7 this ASID's non-global. */
export const NESTED_TLB_CONTROL_SHIFT = 8;
export const NESTED_TLB_CONTROL_MASK = 0xff;
