/** Numbers of exit reasons by the kernel's names: SDM vol. 3D appendix C; APM vol. 2 appendix C. */

const VMX: Readonly<Record<string, number>> = {
  EXCEPTION_NMI: 0,
  EXTERNAL_INTERRUPT: 1,
  TRIPLE_FAULT: 2,
  INIT_SIGNAL: 3,
  SIPI_SIGNAL: 4,
  INTERRUPT_WINDOW: 7,
  NMI_WINDOW: 8,
  TASK_SWITCH: 9,
  CPUID: 10,
  HLT: 12,
  INVD: 13,
  INVLPG: 14,
  RDPMC: 15,
  RDTSC: 16,
  VMCALL: 18,
  VMCLEAR: 19,
  VMLAUNCH: 20,
  VMPTRLD: 21,
  VMPTRST: 22,
  VMREAD: 23,
  VMRESUME: 24,
  VMWRITE: 25,
  VMOFF: 26,
  VMON: 27,
  CR_ACCESS: 28,
  DR_ACCESS: 29,
  IO_INSTRUCTION: 30,
  MSR_READ: 31,
  MSR_WRITE: 32,
  INVALID_STATE: 33,
  MSR_LOAD_FAIL: 34,
  MWAIT_INSTRUCTION: 36,
  MONITOR_TRAP_FLAG: 37,
  MONITOR_INSTRUCTION: 39,
  PAUSE_INSTRUCTION: 40,
  MCE_DURING_VMENTRY: 41,
  TPR_BELOW_THRESHOLD: 43,
  APIC_ACCESS: 44,
  EOI_INDUCED: 45,
  GDTR_IDTR: 46,
  LDTR_TR: 47,
  EPT_VIOLATION: 48,
  EPT_MISCONFIG: 49,
  INVEPT: 50,
  RDTSCP: 51,
  PREEMPTION_TIMER: 52,
  INVVPID: 53,
  WBINVD: 54,
  XSETBV: 55,
  APIC_WRITE: 56,
  RDRAND: 57,
  INVPCID: 58,
  VMFUNC: 59,
  ENCLS: 60,
  RDSEED: 61,
  PML_FULL: 62,
  XSAVES: 63,
  XRSTORS: 64,
  UMWAIT: 67,
  TPAUSE: 68,
  BUS_LOCK: 74,
  NOTIFY: 75,
};

const SVM: Readonly<Record<string, number>> = {
  'DE excp': 0x40,
  'DB excp': 0x41,
  'BP excp': 0x43,
  'OF excp': 0x44,
  'BR excp': 0x45,
  'UD excp': 0x46,
  'NM excp': 0x47,
  'DF excp': 0x48,
  'TS excp': 0x4a,
  'NP excp': 0x4b,
  'SS excp': 0x4c,
  'GP excp': 0x4d,
  'PF excp': 0x4e,
  'MF excp': 0x50,
  'AC excp': 0x51,
  'MC excp': 0x52,
  'XF excp': 0x53,
  interrupt: 0x60,
  nmi: 0x61,
  smi: 0x62,
  init: 0x63,
  vintr: 0x64,
  cr0_sel_write: 0x65,
  rdtsc: 0x6e,
  rdpmc: 0x6f,
  cpuid: 0x72,
  iret: 0x74,
  invd: 0x76,
  pause: 0x77,
  hlt: 0x78,
  invlpg: 0x79,
  invlpga: 0x7a,
  io: 0x7b,
  msr: 0x7c,
  task_switch: 0x7d,
  shutdown: 0x7f,
  vmrun: 0x80,
  hypercall: 0x81,
  vmload: 0x82,
  vmsave: 0x83,
  stgi: 0x84,
  clgi: 0x85,
  skinit: 0x86,
  rdtscp: 0x87,
  wbinvd: 0x89,
  monitor: 0x8a,
  mwait: 0x8b,
  xsetbv: 0x8d,
  invpcid: 0xa2,
  npf: 0x400,
};

/** The number behind a reason's name, the basic one; `undefined` for a name that is not known. */
export function exitReasonNumber(reason: string): number | undefined {
  const found = VMX[reason.split(' ')[0]!] ?? SVM[reason];
  if (found !== undefined) return found;
  const control = /^(read|write)_cr(\d+)$/.exec(reason);
  if (control !== null) return (control[1] === 'write' ? 0x10 : 0) + Number(control[2]);
  return /^0x[0-9a-f]{1,8}$/.test(reason) ? Number(reason) : undefined;
}

/** A second stage of L1's was found wanting: only KVM's walk of it finds that out. */
export function isSecondStageExit(reason: string): boolean {
  return reason === 'npf' || reason === 'EPT_VIOLATION' || reason === 'EPT_MISCONFIG' || reason === 'PML_FULL';
}

/** An intercepted exception; of VMX `intInfo` tells which. */
export function isPageFaultExit(event: { readonly reason: string; readonly intInfo: number }): boolean {
  const PAGE_FAULT = 14;
  return event.reason === 'PF excp' || (event.reason === 'EXCEPTION_NMI' && (event.intInfo & 0xff) === PAGE_FAULT);
}

export function isVmxReason(reason: string): boolean {
  return VMX[reason.split(' ')[0]!] !== undefined;
}
