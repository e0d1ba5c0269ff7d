/** Step words (`formats/step.ts`) and their operands as text: one step, one line. */

import { hexText, type Word64 } from '../bits/word64.ts';
import { decodeNpfExitInfo1, decodePfec, decodeQualification } from '../formats/decode/fault.ts';
import { pageSizeName } from '../formats/decode/page-table-entry.ts';
import { Reg } from '../formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_LENGTH_MASK,
  ACCESS_LENGTH_SHIFT,
  ACCESS_NAMES,
  ACCESS_OF_TABLE,
  ACCESS_SHADOW_STACK,
  ACCESS_SOFTWARE,
  ACCESS_STACK,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  ACCESS_WALKED,
  FAULT_AC,
  FAULT_CPL3,
  FAULT_DURING_EVENT,
  FAULT_MISCONFIG,
  HOST_LEVEL_MASK,
  HOST_LEVEL_SHIFT,
  HOST_PAGE_MASK,
  HOST_PAGE_NAMES,
  HOST_PAGE_SHIFT,
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_MASK,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  NESTED_SVM,
  NESTED_TLB_CONTROL_MASK,
  NESTED_TLB_CONTROL_SHIFT,
  PROVENANCE_MASK,
  PROVENANCE_NAMES,
  PROVENANCE_SHIFT,
  Provenance,
  REGISTER_WRITE_TASK_SWITCH,
  SOFTWARE_AC,
  SOFTWARE_IMPLICIT,
  SOFTWARE_OPERAND,
  SOFTWARE_QUIET,
  SOFTWARE_RMW,
  STEP_KIND_MASK,
  STEP_KIND_NAMES,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  STORE_EMULATED,
  STORE_KNOWLEDGE,
  STORE_SIZE_MASK,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../formats/step.ts';
import type { HypervisorCall, Memslot, Notifier, Stimulus } from '../trace/stimulus.ts';
import { escapeControls } from './escape.ts';
import { type RowContext, registerName, registerWords } from './rows.ts';

/** `access`, `store` …; the kind of rare stimulus for RARE; `step kind 30` for what has no name. */
export function stepKindName(op: number, stimulus?: Stimulus): string {
  const kind = op & STEP_KIND_MASK;
  if (kind === StepKind.RARE && stimulus !== undefined) return stimulus.kind;
  return STEP_KIND_NAMES[kind] ?? `step kind ${kind}`;
}

export function provenanceName(op: number): string {
  return PROVENANCE_NAMES[(op >>> PROVENANCE_SHIFT) & PROVENANCE_MASK] ?? '';
}

/** `read`, `write`, `fetch`, `read-modify-write` of an ACCESS or GPA_ACCESS. */
export function accessName(op: number): string {
  return ACCESS_NAMES[(op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK] ?? '';
}

/** `write  user  cpl3 0x40001040 len 8`. */
function accessText(op: number, address: string): string {
  const cpl = (op >>> ACCESS_CPL_SHIFT) & ACCESS_CPL_MASK;
  const user = (op & ACCESS_USER) !== 0;
  const mode = user ? 'user' : cpl === 3 ? 'implicit supervisor' : 'supervisor';
  const length = (op >>> ACCESS_LENGTH_SHIFT) & ACCESS_LENGTH_MASK;
  const notes = [
    length === 0 ? '' : `len ${length}`,
    (op & ACCESS_AC) !== 0 ? 'ac' : '',
    (op & ACCESS_SHADOW_STACK) !== 0 ? 'shadow-stack' : '',
    (op & ACCESS_STACK) !== 0 ? 'stack-segment' : '',
    (op & ACCESS_SOFTWARE) !== 0 ? 'software' : '',
    (op & ACCESS_WALKED) !== 0 ? 'walked' : '',
  ];
  return [`${accessName(op)}  ${mode}  cpl${cpl} ${address}`, ...notes.filter((s) => s !== '')].join(' ');
}

const REGISTER_WRITE_TEXT: Readonly<Record<number, string>> = {
  [Reg.CR0]: 'MOV CR0,',
  [Reg.CR3]: 'MOV CR3,',
  [Reg.CR4]: 'MOV CR4,',
  [Reg.EFER]: 'WRMSR IA32_EFER,',
  [Reg.PKRU]: 'WRPKRU',
  [Reg.PKRS]: 'WRMSR IA32_PKRS,',
  [Reg.PAT]: 'WRMSR IA32_PAT,',
};

function registerWriteText(op: number, lo: number, hi: number, context: RowContext): string {
  const register = (op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
  if (register === Reg.CR3) {
    if ((op & REGISTER_WRITE_TASK_SWITCH) !== 0) return `task switch, CR3 = ${hexText(lo, hi)}`;
    // Bit 63 is no part of the register: it asks to keep translations (SDM vol. 3A 4.10.4.1).
    const noFlush = hi >= 0x8000_0000;
    return `MOV CR3, ${hexText(lo, hi % 0x8000_0000)}${noFlush ? ' (no flush)' : ''}`;
  }
  const verb = REGISTER_WRITE_TEXT[register] ?? `write ${registerName(register)},`;
  const words = registerWords(register, lo, hi, context);
  return `${verb} ${hexText(lo, hi)}${words === '' ? '' : `  ${words}`}`;
}

const INVPCID_TYPES = ['individual address', 'single context', 'all with globals', 'all but globals'];
const INVEPT_TYPES = ['', 'single context', 'global'];
const INVVPID_TYPES = ['individual address', 'single context', 'all contexts', 'single context but globals'];

function typed(name: string, type: number, names: readonly string[]): string {
  return `${name} type ${type} (${names[type] || 'undefined type'})`;
}

/** SDM vol. 2: INVLPG, INVPCID; vol. 3C ch. 30: INVEPT, INVVPID; APM vol. 3: INVLPGA. */
function invalidationText(op: number, address: string, operand: string): string {
  const which = (op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK;
  const type = (op >>> INVALIDATION_TYPE_SHIFT) & INVALIDATION_TYPE_MASK;
  switch (which) {
    case Invalidation.INVLPG:
      return `INVLPG ${address}`;
    case Invalidation.INVPCID: {
      const descriptor = [type <= 1 ? ` pcid ${operand}` : '', type === 0 ? ` ${address}` : ''].join('');
      return typed('INVPCID', type, INVPCID_TYPES) + descriptor;
    }
    case Invalidation.INVEPT:
      return typed('INVEPT', type, INVEPT_TYPES) + (type === 1 ? ` eptp ${operand}` : '');
    case Invalidation.INVVPID: {
      const descriptor = [type === 2 ? '' : ` vpid ${operand}`, type === 0 ? ` ${address}` : ''].join('');
      return typed('INVVPID', type, INVVPID_TYPES) + descriptor;
    }
    case Invalidation.INVLPGA:
      return `INVLPGA ${address} asid ${operand}`;
    case Invalidation.EPTP_SWITCH:
      return operand === '0x0' ? `VMFUNC EPTP switch to entry ${address}` : `VMFUNC EPTP switch to ${operand}`;
    default:
      return `invalidation ${which} type ${type} address ${address} operand ${operand}`;
  }
}

/** APM vol. 2 15.16.2. */
const TLB_CONTROLS: Readonly<Record<number, string>> = {
  0: 'nothing',
  1: 'flush all',
  3: 'flush this ASID',
  7: "flush this ASID's non-global",
};

/** The exits that matter to paging: SDM vol. 3D appendix C; APM vol. 2 appendix C. */
const VMX_EXITS: Readonly<Record<number, string>> = {
  0: 'exception or NMI',
  1: 'external interrupt',
  10: 'CPUID',
  12: 'HLT',
  14: 'INVLPG',
  18: 'VMCALL',
  28: 'control-register access',
  30: 'I/O',
  31: 'RDMSR',
  32: 'WRMSR',
  48: 'EPT violation',
  49: 'EPT misconfiguration',
  58: 'INVPCID',
  59: 'VMFUNC',
  62: 'page-modification log full',
};
const SVM_EXITS: Readonly<Record<number, string>> = {
  78: '#PF',
  96: 'INTR',
  114: 'CPUID',
  120: 'HLT',
  121: 'INVLPG',
  122: 'INVLPGA',
  123: 'IOIO',
  124: 'MSR',
  128: 'VMRUN',
  129: 'VMMCALL',
  1024: 'NPF',
};

function nestedEntryText(op: number): string {
  if ((op & NESTED_SVM) === 0) return 'VM entry';
  const control = (op >>> NESTED_TLB_CONTROL_SHIFT) & NESTED_TLB_CONTROL_MASK;
  return `VMRUN tlb_control ${control} (${TLB_CONTROLS[control] ?? 'reserved'})`;
}

/** The low 16 bits of a VMX exit reason are the basic reason (SDM vol. 3C 24.9.1). */
function nestedExitText(op: number, reasonLo: number, reasonHi: number, qualification: string): string {
  const reason = hexText(reasonLo, reasonHi);
  if ((op & NESTED_SVM) !== 0) {
    const name = reasonHi === 0 ? SVM_EXITS[reasonLo] : undefined;
    return `#VMEXIT ${reason}${name === undefined ? '' : ` (${name})`} exitinfo1 ${qualification}`;
  }
  const name = VMX_EXITS[reasonLo & 0xffff];
  return `VM exit ${reasonLo & 0xffff}${name === undefined ? '' : ` (${name})`} qualification ${qualification}`;
}

/** A rare stimulus as one line. */
export function stimulusText(stimulus: Stimulus): string {
  switch (stimulus.kind) {
    case 'page-image': {
      let words = 0;
      for (let i = 0; i + 1 < stimulus.words.length; i += 2) {
        if (stimulus.words[i] !== 0 || stimulus.words[i + 1] !== 0) words++;
      }
      return `page image ${hexText(stimulus.address.lo, stimulus.address.hi)}, ${words} of 512 words not zero`;
    }
    case 'entry-fill': {
      const { address, first, increment, count, size } = stimulus;
      const where = hexText(address.lo, address.hi);
      const rise = hexText(increment.lo, increment.hi);
      return `fill ${count} entries of ${size} bytes from ${where}: ${hexText(first.lo, first.hi)} rising by ${rise}`;
    }
    case 'note':
      return `note: ${escapeControls(stimulus.text)}`;
    case 'memslot':
      return memslotText(stimulus);
    case 'dirty-log':
      return `dirty log of memslot ${stimulus.slot} read`;
    case 'notifier': {
      const range = `${hexText(stimulus.start.lo, stimulus.start.hi)}..${hexText(stimulus.end.lo, stimulus.end.hi)}`;
      return `the host ${NOTIFIER_TEXT[stimulus.what]} ${range} of its own addresses`;
    }
    case 'hypervisor':
      return HYPERVISOR_TEXT[stimulus.what];
  }
}

const MEMSLOT_TEXT: Readonly<Record<Memslot['what'], string>> = {
  create: 'created',
  delete: 'deleted',
  move: 'moved',
  flags: 'flags changed',
};
const NOTIFIER_TEXT: Readonly<Record<Notifier['what'], string>> = {
  unmap: 'unmaps',
  'set-pte': 'exchanges the page at',
  age: 'ages',
  'test-age': 'tests the age of',
};
const HYPERVISOR_TEXT: Readonly<Record<HypervisorCall['what'], string>> = {
  'zap-all': 'the hypervisor drops all shadow pages',
  destroy: 'the VM is destroyed',
  'set-cpuid': 'KVM_SET_CPUID2',
  'set-sregs': 'KVM_SET_SREGS',
};

function memslotText({ what, slot, addressSpace, address, size, readOnly, dirtyLog, userspace }: Memslot): string {
  const name = `memslot ${slot}${addressSpace === 0 ? '' : ` of address space ${addressSpace}`} ${MEMSLOT_TEXT[what]}`;
  if (what === 'delete') return name;
  const where = `gpa ${hexText(address.lo, address.hi)}, ${hexText(size.lo, size.hi)} bytes at host ${hexText(userspace.lo, userspace.hi)}`;
  return `${name}: ${where}${readOnly ? ', read-only' : ''}${dirtyLog ? ', dirty log' : ''}`;
}

/** A fault as the hardware below reports it: shadow paging has its #PF, two-dimensional paging its nested faults. */
function faultExitText(op: number, address: string, error: Word64, context: RowContext): string {
  const notes = [
    (op & FAULT_DURING_EVENT) !== 0 ? ', an event was being delivered' : '',
    (op & FAULT_CPL3) !== 0 ? ', cpl3' : '',
    (op & FAULT_AC) !== 0 ? ', ac' : '',
  ];
  const event = notes.join('');
  if ((op & FAULT_MISCONFIG) !== 0) return `exit: EPT misconfiguration gpa ${address}${event}`;
  const { mmu } = context;
  const code = hexText(error.lo, error.hi);
  if (mmu === undefined) return `exit: fault at ${address} error ${code}${event}`;
  if (!mmu.tdp) {
    return `exit: #PF error ${code} (${decodePfec(error, mmu.vendor).short}) cr2 ${address}${event}`;
  }
  if (mmu.vendor === 'amd') {
    return `exit: NPF gpa ${address} exitinfo1 ${code} (${decodeNpfExitInfo1(error).short})${event}`;
  }
  const words = decodeQualification(error, {}).short;
  return `exit: EPT violation gpa ${address} qualification ${code} (${words})${event}`;
}

/** `software walk of 0x40005040: write user, operand of an instruction`. */
function softwareWalkText(op: number, address: string, access: number): string {
  const type = (access & 0x10) !== 0 ? 'fetch' : (access & 2) !== 0 ? 'write' : 'read';
  const notes = [
    (op & SOFTWARE_OPERAND) !== 0 ? 'operand of an instruction' : '',
    (op & SOFTWARE_IMPLICIT) !== 0 ? 'implicit' : '',
    (op & SOFTWARE_AC) !== 0 ? 'ac' : '',
    (op & SOFTWARE_RMW) !== 0 ? 'to be written, too' : '',
    (op & SOFTWARE_QUIET) !== 0 ? 'a failure is dropped' : '',
  ].filter((s) => s !== '');
  const who = (access & 4) !== 0 ? 'user' : 'supervisor';
  return [`software walk of ${address}: ${type} ${who}`, ...notes].join(', ');
}

function hostPagesText(op: number, address: string, lo: number, hi: number): string {
  const count = hi * 0x1_0000_0000 + lo;
  const residency = HOST_PAGE_NAMES[(op >>> HOST_PAGE_SHIFT) & HOST_PAGE_MASK] ?? 'of unknown residency';
  const level = (op >>> HOST_LEVEL_SHIFT) & HOST_LEVEL_MASK;
  const size = level === 0 ? 'level 0' : pageSizeName(3 + 9 * level);
  return `host has ${count} page${count === 1 ? '' : 's'} from gpa ${address} ${residency}, mapped by ${size}`;
}

/**
 * One step as one line, without its ordinal: `write  user  cpl3 0x40001040 len 8`, `INVLPG 0x40001000 [mark]`.
 *
 * `stimuli`: those of the chunk, for RARE steps.
 */
export function stepText(
  op: number,
  addressLo: number,
  addressHi: number,
  operandLo: number,
  operandHi: number,
  stimuli: readonly Stimulus[] = [],
  context: RowContext = {},
): string {
  const provenance = (op >>> PROVENANCE_SHIFT) & PROVENANCE_MASK;
  const suffix = provenance === Provenance.RECORDED ? '' : `  [${provenanceName(op)}]`;
  return bareStepText(op, addressLo, addressHi, operandLo, operandHi, stimuli, context) + suffix;
}

function bareStepText(
  op: number,
  aLo: number,
  aHi: number,
  oLo: number,
  oHi: number,
  stimuli: readonly Stimulus[],
  context: RowContext,
): string {
  const address = hexText(aLo, aHi);
  const operand = hexText(oLo, oHi);
  switch (op & STEP_KIND_MASK) {
    case StepKind.RARE: {
      const stimulus = oHi === 0 ? stimuli[oLo] : undefined;
      return stimulus === undefined
        ? `rare stimulus ${operand}, which the chunk does not have`
        : stimulusText(stimulus);
    }
    case StepKind.ACCESS:
      return accessText(op, address);
    case StepKind.STORE: {
      const size = (op >>> STORE_SIZE_SHIFT) & STORE_SIZE_MASK;
      const verb = (op & STORE_KNOWLEDGE) !== 0 ? 'found' : (op & STORE_EMULATED) !== 0 ? 'emulated store' : 'store';
      return `${verb} [${address}] = ${operand}, ${size} byte${size === 1 ? '' : 's'}`;
    }
    case StepKind.CLEAR_PAGE:
      return `clear page ${address}`;
    case StepKind.REGISTER_WRITE:
      return registerWriteText(op, oLo, oHi, context);
    case StepKind.REGISTER_SET: {
      const register = (op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK;
      const words = registerWords(register, oLo, oHi, context);
      return `${registerName(register)} is ${operand}${words === '' ? '' : `  ${words}`}`;
    }
    case StepKind.INVALIDATE:
      return invalidationText(op, address, operand);
    case StepKind.NESTED_ENTRY:
      return nestedEntryText(op);
    case StepKind.NESTED_EXIT:
      return nestedExitText(op, oLo, oHi, address);
    case StepKind.GPA_ACCESS:
      return `${accessName(op)}  gpa ${address}${(op & ACCESS_OF_TABLE) !== 0 ? ' of a paging-structure entry' : ''}`;
    case StepKind.PDPTE_LOAD:
      return `load PDPTE registers from CR3 ${address}`;
    case StepKind.FAULT_EXIT:
      return faultExitText(op, address, { lo: oLo, hi: oHi }, context);
    case StepKind.VM_ENTRY:
      return 'KVM enters the guest';
    case StepKind.SOFTWARE_WALK:
      return softwareWalkText(op, address, oLo);
    case StepKind.HOST_PAGES:
      return hostPagesText(op, address, oLo, oHi);
    case StepKind.VCPU:
      return `vCPU ${oHi === 0 ? oLo : operand} from here on`;
    default:
      return `step kind ${op & STEP_KIND_MASK} address ${address} operand ${operand}`;
  }
}
