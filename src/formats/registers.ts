/**
 * The registers that paging depends on, and their order in every place that holds them all: the vCPU state at the
 * start of a chunk, REGISTER observations, and the register file of the machine.
 */

export const Reg = {
  CR0: 0,
  CR3: 1,
  CR4: 2,
  EFER: 3,
  PKRU: 4,
  PKRS: 5,
  /** PDPTE registers of PAE paging (SDM vol. 3A 4.4.1); 0 under any other paging mode. */
  PDPTE0: 6,
  PDPTE1: 7,
  PDPTE2: 8,
  PDPTE3: 9,
  /** One of `GuestMode`. */
  GUEST_MODE: 10,
  /** EPT pointer in force; 0 = EPT off. */
  EPTP: 11,
  /** Virtual-processor identifier in force; 0 = VPIDs off. */
  VPID: 12,
  /** Secondary processor-based VM-execution controls in force (SDM vol. 3C 25.6.2). */
  SECONDARY_CONTROLS: 13,
  /** VMCB field at 090h: bit 0 NP_ENABLE, bit 3 GMET (APM vol. 2, appendix B). */
  NESTED_CONTROL: 14,
  /** Root of the nested page tables. */
  NCR3: 15,
  ASID: 16,
  /** CR0, CR4 and EFER of the host, which shape the nested walk of an SVM guest (APM vol. 2 15.25.3). */
  HOST_CR0: 17,
  HOST_CR4: 18,
  HOST_EFER: 19,
  /** 1 in system-management mode. */
  SMM: 20,
  PAT: 21,
  /** What the hypervisor of the running guest intercepts: bit 14 #PF (SDM vol. 3C 25.6.3; VMCB field 008h). */
  EXCEPTION_BITMAP: 22,
  /** Low half: page-fault error-code mask, high half: match (SDM vol. 3C 25.2). */
  PFEC_MASK_MATCH: 23,
  /** Page-modification log of the running guest's hypervisor (SDM vol. 3C 29.3.6). */
  PML_ADDRESS: 24,
  /** 16 bits; the processor counts down. */
  PML_INDEX: 25,
  /** List of EPTPs between which VMFUNC leaf 0 switches (SDM vol. 3C 26.5.6.3). */
  EPTP_LIST: 26,
  /** VM-function controls: bit 0 EPTP switching. */
  VM_FUNCTION_CONTROLS: 27,
} as const;

export type RegId = (typeof Reg)[keyof typeof Reg];

export const REGISTER_COUNT = 28;

/** Lower-case names by number, as the text form and reports spell them. */
export const REGISTER_NAMES: readonly string[] = Object.keys(Reg).map((name) => name.toLowerCase());

export const GuestMode = { NONE: 0, VMX: 1, SVM: 2 } as const;

export const CR0_PE = 1 << 0;
export const CR0_WP = 1 << 16;
export const CR0_NW = 1 << 29;
export const CR0_CD = 1 << 30;
export const CR0_PG = 0x8000_0000;

export const CR4_PSE = 1 << 4;
export const CR4_PAE = 1 << 5;
export const CR4_PGE = 1 << 7;
export const CR4_LA57 = 1 << 12;
export const CR4_PCIDE = 1 << 17;
export const CR4_SMEP = 1 << 20;
export const CR4_SMAP = 1 << 21;
export const CR4_PKE = 1 << 22;
export const CR4_CET = 1 << 23;
export const CR4_PKS = 1 << 24;
export const CR4_LASS = 1 << 27;
export const CR4_LAM_SUP = 1 << 28;
/** Bits 62 (LAM_U48) and 61 (LAM_U57) of CR3, in its high half. */
export const CR3_LAM_HI = 3 << 29;

export const EFER_SCE = 1 << 0;
export const EFER_LME = 1 << 8;
export const EFER_LMA = 1 << 10;
export const EFER_NXE = 1 << 11;
export const EFER_SVME = 1 << 12;

export const SECONDARY_EPT = 1 << 1;
export const SECONDARY_VPID = 1 << 5;
export const SECONDARY_UNRESTRICTED = 1 << 7;
export const SECONDARY_VMFUNC = 1 << 13;
export const SECONDARY_PML = 1 << 17;
export const SECONDARY_MBEC = 1 << 22;
export const SECONDARY_SPP = 1 << 23;

export const NESTED_NP_ENABLE = 1 << 0;
export const NESTED_GMET = 1 << 3;

export const EPTP_AD = 1 << 6;
