import { describe, expect, test } from 'vitest';
import { fromBigInt, ZERO } from '../../src/bits/word64.ts';
import { defaultKvmConfig } from '../../src/formats/kvm-config.ts';
import { Reg } from '../../src/formats/registers.ts';
import {
  ACCESS_AC,
  ACCESS_CPL_SHIFT,
  ACCESS_EXPECTS_ADDRESS,
  ACCESS_LENGTH_SHIFT,
  ACCESS_OF_TABLE,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  ACCESS_WALKED,
  AccessType,
  expectsAddress,
  FAULT_DURING_EVENT,
  FAULT_MISCONFIG,
  HOST_LEVEL_SHIFT,
  HOST_PAGE_SHIFT,
  HostPage,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  NESTED_SVM,
  NESTED_TLB_CONTROL_SHIFT,
  PROVENANCE_SHIFT,
  Provenance,
  REGISTER_WRITE_TASK_SWITCH,
  SOFTWARE_AC,
  SOFTWARE_IMPLICIT,
  SOFTWARE_OPERAND,
  SOFTWARE_QUIET,
  STEP_REGISTER_SHIFT,
  STORE_EMULATED,
  STORE_KNOWLEDGE,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../src/formats/step.ts';
import { stepKindName, stepText } from '../../src/report/steps.ts';
import type { Stimulus } from '../../src/trace/stimulus.ts';

function text(op: number, address = 0n, operand = 0n, stimuli: readonly Stimulus[] = []): string {
  const [a, o] = [fromBigInt(address), fromBigInt(operand)];
  return stepText(op >>> 0, a.lo, a.hi, o.lo, o.hi, stimuli);
}

describe('accesses', () => {
  test('type, mode, CPL, address, length', () => {
    const op =
      StepKind.ACCESS |
      (AccessType.WRITE << ACCESS_TYPE_SHIFT) |
      ACCESS_USER |
      (3 << ACCESS_CPL_SHIFT) |
      (8 << ACCESS_LENGTH_SHIFT);
    expect(text(op, 0x4000_1040n)).toBe('write  user  cpl3 0x40001040 len 8');
  });

  test('a supervisor access at CPL 3 is an implicit one', () => {
    expect(text(StepKind.ACCESS | (3 << ACCESS_CPL_SHIFT), 0x1000n)).toBe('read  implicit supervisor  cpl3 0x1000');
    expect(text(StepKind.ACCESS, 0x1000n)).toBe('read  supervisor  cpl0 0x1000');
  });

  test('what else is known of it', () => {
    expect(text(StepKind.ACCESS | ACCESS_AC | ACCESS_WALKED, 0x1000n)).toBe('read  supervisor  cpl0 0x1000 ac walked');
  });

  test('a guest-physical access', () => {
    expect(text(StepKind.GPA_ACCESS | ACCESS_OF_TABLE, 0x1000n)).toBe('read  gpa 0x1000 of a paging-structure entry');
  });

  test('only an access can expect an address without a row', () => {
    expect(expectsAddress(StepKind.ACCESS | ACCESS_EXPECTS_ADDRESS)).toBe(true);
    expect(expectsAddress(StepKind.STORE | ACCESS_EXPECTS_ADDRESS)).toBe(false);
  });
});

describe('memory', () => {
  test('a store differs from finding a value', () => {
    expect(text(StepKind.STORE | (8 << STORE_SIZE_SHIFT), 0x1000n, 0x2067n)).toBe('store [0x1000] = 0x2067, 8 bytes');
    expect(text(StepKind.STORE | (1 << STORE_SIZE_SHIFT) | STORE_KNOWLEDGE, 0x1000n, 0x20n)).toBe(
      'found [0x1000] = 0x20, 1 byte',
    );
    expect(text(StepKind.CLEAR_PAGE, 0x3000n)).toBe('clear page 0x3000');
  });
});

describe('registers', () => {
  function write(register: number, operand: bigint, flags = 0): string {
    return text(StepKind.REGISTER_WRITE | (register << STEP_REGISTER_SHIFT) | flags, 0n, operand);
  }

  test('MOV CR3 shows its no-flush bit as what it asks for', () => {
    expect(write(Reg.CR3, (1n << 63n) | 0x20_0001n)).toBe('MOV CR3, 0x200001 (no flush)');
    expect(write(Reg.CR3, 0x20_0001n)).toBe('MOV CR3, 0x200001');
    expect(write(Reg.CR3, 0x20_0000n, REGISTER_WRITE_TASK_SWITCH)).toBe('task switch, CR3 = 0x200000');
  });

  test('other writes are decoded', () => {
    expect(write(Reg.CR4, 0x20n)).toBe('MOV CR4, 0x20  PAE');
    expect(write(Reg.EFER, 0x800n)).toBe('WRMSR IA32_EFER, 0x800  NXE');
    expect(write(Reg.PKRU, 0x4n)).toBe('WRPKRU 0x4  key 1 no access');
  });

  test('a register that is only known to hold a value', () => {
    expect(text(StepKind.REGISTER_SET | (Reg.ASID << STEP_REGISTER_SHIFT), 0n, 1n)).toBe('asid is 0x1');
  });
});

describe('invalidations', () => {
  function invalidate(which: number, type: number, address: bigint, operand: bigint): string {
    return text(
      StepKind.INVALIDATE | (which << INVALIDATION_SHIFT) | (type << INVALIDATION_TYPE_SHIFT),
      address,
      operand,
    );
  }

  test('each shows the operands that it has', () => {
    expect(invalidate(Invalidation.INVLPG, 0, 0x4000_1000n, 0n)).toBe('INVLPG 0x40001000');
    expect(invalidate(Invalidation.INVPCID, 0, 0x1000n, 5n)).toBe(
      'INVPCID type 0 (individual address) pcid 0x5 0x1000',
    );
    expect(invalidate(Invalidation.INVPCID, 2, 0x1000n, 5n)).toBe('INVPCID type 2 (all with globals)');
    expect(invalidate(Invalidation.INVEPT, 1, 0n, 0x60001en)).toBe('INVEPT type 1 (single context) eptp 0x60001e');
    expect(invalidate(Invalidation.INVEPT, 2, 0n, 0n)).toBe('INVEPT type 2 (global)');
    expect(invalidate(Invalidation.INVVPID, 0, 0x1000n, 2n)).toBe(
      'INVVPID type 0 (individual address) vpid 0x2 0x1000',
    );
    expect(invalidate(Invalidation.INVLPGA, 0, 0x1000n, 1n)).toBe('INVLPGA 0x1000 asid 0x1');
    expect(invalidate(Invalidation.EPTP_SWITCH, 0, 0n, 0x60001en)).toBe('VMFUNC EPTP switch to 0x60001e');
    expect(invalidate(Invalidation.EPTP_SWITCH, 0, 3n, 0n)).toBe('VMFUNC EPTP switch to entry 0x3');
  });

  test('a type that does not exist is named so', () => {
    expect(invalidate(Invalidation.INVEPT, 7, 0n, 0n)).toBe('INVEPT type 7 (undefined type)');
  });
});

describe('nested transitions', () => {
  test('VMX and SVM', () => {
    expect(text(StepKind.NESTED_ENTRY)).toBe('VM entry');
    expect(text(StepKind.NESTED_ENTRY | NESTED_SVM | (3 << NESTED_TLB_CONTROL_SHIFT))).toBe(
      'VMRUN tlb_control 3 (flush this ASID)',
    );
    expect(text(StepKind.NESTED_EXIT, 0x182n, 48n)).toBe('VM exit 48 (EPT violation) qualification 0x182');
    expect(text(StepKind.NESTED_EXIT | NESTED_SVM, 0x1_0000_0004n, 0x400n)).toBe(
      '#VMEXIT 0x400 (NPF) exitinfo1 0x100000004',
    );
    expect(text(StepKind.PDPTE_LOAD, 0x2000n)).toBe('load PDPTE registers from CR3 0x2000');
  });
});

describe('rare stimuli', () => {
  const stimuli: Stimulus[] = [
    { kind: 'note', text: 'test \u001b[31mred\u001b[0m\nsecond' },
    {
      kind: 'entry-fill',
      address: fromBigInt(0x5000n),
      count: 512,
      first: fromBigInt(0x83n),
      increment: fromBigInt(0x20_0000n),
      size: 8,
    },
    { kind: 'page-image', address: ZERO, words: Uint32Array.from([0, 0, 1, 0, 0, 7]) },
  ];

  test('text of the recording cannot steer the terminal', () => {
    expect(text(StepKind.RARE, 0n, 0n, stimuli)).toBe('note: test \\x1b[31mred\\x1b[0m\\nsecond');
  });

  test('fills and images', () => {
    expect(text(StepKind.RARE, 0n, 1n, stimuli)).toBe(
      'fill 512 entries of 8 bytes from 0x5000: 0x83 rising by 0x200000',
    );
    expect(text(StepKind.RARE, 0n, 2n, stimuli)).toBe('page image 0x0, 2 of 512 words not zero');
  });

  test('an index without a stimulus is told, not thrown at', () => {
    expect(text(StepKind.RARE, 0n, 3n, stimuli)).toBe('rare stimulus 0x3, which the chunk does not have');
  });

  test('its kind is its name', () => {
    expect(stepKindName(StepKind.RARE, stimuli[0])).toBe('note');
    expect(stepKindName(StepKind.INVALIDATE)).toBe('invalidate');
    expect(stepKindName(31)).toBe('step kind 31');
  });
});

describe("a hypervisor's own steps", () => {
  const under = (op: number, address: bigint, operand: bigint, mmu = defaultKvmConfig()): string => {
    const [a, o] = [fromBigInt(address), fromBigInt(operand)];
    return stepText(op, a.lo, a.hi, o.lo, o.hi, [], { mmu });
  };
  const intel = defaultKvmConfig({ vendor: 'intel' });

  test('a fault reads as the hardware below reports it', () => {
    const fault = StepKind.FAULT_EXIT;
    expect(under(fault, 0x1000n, 0x1_0000_0006n)).toBe('exit: NPF gpa 0x1000 exitinfo1 0x100000006 (W U; final)');
    expect(under(fault, 0x1000n, 0x182n, intel)).toBe(
      'exit: EPT violation gpa 0x1000 qualification 0x182 (write; entry ---; linear, final)',
    );
    expect(under(fault | FAULT_MISCONFIG, 0xe000_0018n, 0n, intel)).toBe('exit: EPT misconfiguration gpa 0xe0000018');
    expect(under(fault | FAULT_DURING_EVENT, 0x4000_1000n, 3n, defaultKvmConfig({ tdp: false }))).toBe(
      'exit: #PF error 0x3 (P W) cr2 0x40001000, an event was being delivered',
    );
    expect(text(fault, 0x1000n, 0x3n)).toBe('exit: fault at 0x1000 error 0x3');
  });

  test('software walks say for what, and what becomes of a failure', () => {
    expect(text(StepKind.SOFTWARE_WALK | SOFTWARE_OPERAND, 0x4000_5040n, 6n)).toBe(
      'software walk of 0x40005040: write user, operand of an instruction',
    );
    expect(text(StepKind.SOFTWARE_WALK | SOFTWARE_QUIET | SOFTWARE_IMPLICIT | SOFTWARE_AC, 0x1000n, 0x10n)).toBe(
      'software walk of 0x1000: fetch supervisor, implicit, ac, a failure is dropped',
    );
  });

  test('entries, host pages, emulated stores', () => {
    expect(text(StepKind.VM_ENTRY)).toBe('KVM enters the guest');
    const pages = StepKind.HOST_PAGES | (HostPage.WRITABLE << HOST_PAGE_SHIFT) | (2 << HOST_LEVEL_SHIFT);
    expect(text(pages, 0x20_0000n, 512n)).toBe('host has 512 pages from gpa 0x200000 writable, mapped by 2M');
    expect(text(StepKind.HOST_PAGES | (1 << HOST_LEVEL_SHIFT), 0x1000n, 1n)).toBe(
      'host has 1 page from gpa 0x1000 absent, mapped by 4K',
    );
    expect(text(StepKind.STORE | (8 << STORE_SIZE_SHIFT) | STORE_EMULATED, 0x1000n, 0x2067n)).toBe(
      'emulated store [0x1000] = 0x2067, 8 bytes',
    );
  });

  test('ioctls and the notifier', () => {
    const slot = { slot: 3, addressSpace: 0, address: fromBigInt(0x1000n), size: fromBigInt(0x4000n) };
    const backed = { ...slot, userspace: fromBigInt(0x7fd3_9000_0000n) };
    const stimuli: Stimulus[] = [
      { kind: 'memslot', what: 'create', ...backed, readOnly: true, dirtyLog: true },
      { kind: 'memslot', what: 'delete', ...backed, addressSpace: 1, readOnly: false, dirtyLog: false },
      { kind: 'dirty-log', slot: 3 },
      { kind: 'notifier', what: 'unmap', start: fromBigInt(0x1000n), end: fromBigInt(0x3000n) },
      { kind: 'hypervisor', what: 'zap-all' },
    ];
    expect(stimuli.map((_, i) => text(StepKind.RARE, 0n, BigInt(i), stimuli))).toEqual([
      'memslot 3 created: gpa 0x1000, 0x4000 bytes at host 0x7fd390000000, read-only, dirty log',
      'memslot 3 of address space 1 deleted',
      'dirty log of memslot 3 read',
      'the host unmaps 0x1000..0x3000 of its own addresses',
      'the hypervisor drops all shadow pages',
    ]);
  });
});

test('how an operand is known is told unless it was recorded', () => {
  expect(text(StepKind.CLEAR_PAGE | (Provenance.MARK << PROVENANCE_SHIFT), 0x3000n)).toBe('clear page 0x3000  [mark]');
  expect(text(StepKind.CLEAR_PAGE | (Provenance.INFERRED << PROVENANCE_SHIFT), 0x3000n)).toBe(
    'clear page 0x3000  [inferred]',
  );
});
