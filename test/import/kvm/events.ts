/** Traces made by hand, for tests: events in few words, and what an import of them says. */

import { KVM_EVENT_MASK, KVM_EVENT_NAMES, KVM_EVENT_SHIFT } from '../../../src/formats/kvm-event.ts';
import { OBS_KIND_MASK, OBS_NAMES, Obs } from '../../../src/formats/observation.ts';
import { STEP_KIND_MASK, STEP_KIND_NAMES, StepKind } from '../../../src/formats/step.ts';
import type { TraceEvent, TraceEventFields } from '../../../src/import/ftrace/event.ts';
import { importEvents, type KvmImport } from '../../../src/import/kvm/import-kvm.ts';
import { DumpReader } from '../../../src/import/kvm-guest/dump.ts';
import { parseMark } from '../../../src/import/kvm-guest/marks.ts';
import type { GuestRecording } from '../../../src/import/kvm-guest/recording.ts';
import type { TraceHeader } from '../../../src/trace/header.ts';

const TASK = 7;

/** Events in order, of one task. */
export function trace(...fields: readonly TraceEventFields[]): TraceEvent[] {
  return fields.map((each, i) => ({ position: i + 1, time: i, task: 'vmm', pid: TASK, cpu: 0, ...each }) as TraceEvent);
}

export const entry = (rip = 0x1000n): TraceEventFields => ({ name: 'kvm_entry', vcpu: 0, rip });
export const exit = (reason: string, rip = 0x1000n, more: { intrInfo?: number } = {}): TraceEventFields => ({
  name: 'kvm_exit',
  vcpu: 0,
  reason,
  rip,
  info1: 0n,
  info2: 0n,
  intrInfo: more.intrInfo ?? 0,
  errorCode: 0,
});
export const fault = (address: bigint, errorCode: bigint, rip = 0x2000n): TraceEventFields => ({
  name: 'kvm_page_fault',
  vcpu: 0,
  rip,
  address,
  errorCode,
});
export const walk = (addr: bigint, pferr: number): TraceEventFields => ({
  name: 'kvm_mmu_pagetable_walk',
  addr,
  pferr,
});
export const element = (level: number, pte: bigint): TraceEventFields => ({
  name: 'kvm_mmu_paging_element',
  level,
  pte,
});
export const emulate = (rip = 0x2000n): TraceEventFields => ({
  name: 'kvm_emulate_insn',
  rip,
  csbase: 0n,
  bytes: '88 07',
  mode: 'prot32',
  failed: false,
});
export const mark = (text: string): TraceEventFields => ({ name: 'mark', text });
export const zap = (gfn: bigint): TraceEventFields => ({
  name: 'kvm_mmu_prepare_zap_page',
  gen: 0,
  gfn,
  role: 1,
  roleMask: 0xffff_ffff,
  rootCount: 0,
  unsync: false,
});
/** An exit to user space in which a mark is written, and the run that follows. */
export const marked = (text: string): TraceEventFields[] => [
  exit('io', 0x1001n),
  { name: 'kvm_userspace_exit', reason: 'KVM_EXIT_IO', number: 2 },
  mark(text),
  { name: 'other', event: 'kvm_fpu', text: 'load' },
  entry(0x1002n),
];

/** A recording with these marks, a guest of `blob`, and one slot of 8 MiB. */
export function recording(
  marks: readonly string[],
  blob = 'g32.bin',
  parameters: readonly string[] = [],
): GuestRecording {
  const dump = new DumpReader();
  dump.line('slot 0 gpa=0 size=800000 flags=0 hva=0x7f0000000000', 1);
  const start = `VMM start blob=/bin/${blob} bytes=4096 mode=${blob === 'g32.bin' ? 3 : 4}`;
  return {
    log: 'vmm.log.gz',
    marks: [
      'cpuid 00000000.0 eax=0000000d ebx=68747541 ecx=444d4163 edx=69746e65',
      'cpuid 80000008.0 eax=00003028 ebx=0 ecx=0 edx=0',
      start,
      ...marks,
    ].map((text, i) => parseMark(text, i + 1)),
    dumps: new Map([['dump00.txt', dump]]),
    sources: [],
    kvmParameters: parameters.map((each) => `/sys/module/${each}`).join('\n'),
    commandLine: '',
    together: false,
  };
}

export interface Told {
  readonly header: TraceHeader;
  readonly result: KvmImport;
  /** A line for each step: kind, flags above bit 6, address, operand, and its rows by name. */
  readonly steps: readonly string[];
}

/** Imports and tells the steps; entries without rows and what precedes the first entry are left out. */
export async function told(events: readonly TraceEvent[], given: GuestRecording | undefined): Promise<Told> {
  const headers: TraceHeader[] = [];
  const steps: string[] = [];
  const hex = (halves: Uint32Array, i: number): string =>
    (BigInt(halves[2 * i]!) | (BigInt(halves[2 * i + 1]!) << 32n)).toString(16);
  const result = await importEvents(events, given, 'made', {
    header: (header) => {
      headers.push(header);
    },
    steps: (run) => {
      for (let i = 0; i < run.stepCount; i++) {
        const op = run.op[i]!;
        const kind = op & STEP_KIND_MASK;
        const rows: string[] = [];
        for (let n = i === 0 ? 0 : run.observationEnd[i - 1]!; n < run.observationEnd[i]!; n++) {
          const row = run.observationOp[n]!;
          const event = (row & OBS_KIND_MASK) === Obs.KVM_EVENT;
          rows.push(
            event ? KVM_EVENT_NAMES[(row >>> KVM_EVENT_SHIFT) & KVM_EVENT_MASK]! : OBS_NAMES[row & OBS_KIND_MASK]!,
          );
        }
        const rare = kind === StepKind.RARE ? run.stimuli[run.operand[2 * i]!]! : undefined;
        const what =
          rare === undefined
            ? `${STEP_KIND_NAMES[kind]} ${(op >>> 7).toString(16)} ${hex(run.address, i)} ${hex(run.operand, i)}`
            : `${rare.kind}${'what' in rare ? ` ${rare.what}` : ''}`;
        steps.push(rows.length === 0 ? what : `${what}: ${rows.join(' ')}`);
      }
    },
  });
  const first = steps.findIndex((step) => step.startsWith('vm-entry'));
  const after = given === undefined ? steps : steps.slice(first);
  return { header: headers[0]!, result, steps: after.filter((step) => step !== 'vm-entry 0 0 0') };
}
