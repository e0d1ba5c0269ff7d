/**
 * The invariants of steps, beyond those without which a reader refuses the file (`../soundness.ts`). Nothing here knows
 * what a machine would do: only what no recording can truthfully say.
 */

import type { Place } from '../../bits/problem.ts';
import { hexText } from '../../bits/word64.ts';
import {
  OBS_FOUR_BYTES,
  OBS_KIND_MASK,
  OBS_LEARNED,
  OBS_NAMES,
  OBS_REGISTER_MASK,
  OBS_REGISTER_SHIFT,
  Obs,
  obsMask,
} from '../../formats/observation.ts';
import { REGISTER_COUNT } from '../../formats/registers.ts';
import {
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_EXPECTS_ADDRESS,
  ACCESS_LENGTH_MASK,
  ACCESS_LENGTH_SHIFT,
  ACCESS_USER,
  expectsAddress,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  STORE_SIZE_MASK,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../formats/step.ts';
import type { StepColumns } from '../columns.ts';
import type { TraceHeader } from '../header.ts';
import { observationKindOf, stepKindOf } from '../text/kinds.ts';
import type { Findings } from './findings.ts';
import { isKvmStep, type KvmFault, kvmRowsFaults, kvmStepFaults, kvmStimulusFaults, strayEventBits } from './kvm.ts';

/** What follows from translating or from loading registers that paging depends on. */
const WALKING = obsMask(
  Obs.ELEMENT,
  Obs.PDPTE,
  Obs.NESTED_WALK,
  Obs.ENTRY_WRITE,
  Obs.EXCEPTION,
  Obs.EPT_VIOLATION,
  Obs.EPT_MISCONFIG,
  Obs.NPF,
  Obs.EXIT_LINEAR,
  Obs.PML_FULL,
);
const OF_ACCESS = WALKING | obsMask(Obs.TRANSLATED, Obs.COMPLETED, Obs.FAULTED);
const AFTERWARDS = obsMask(Obs.REGISTER, Obs.ENTRY_AFTER);
const LOADING = WALKING | AFTERWARDS | obsMask(Obs.PDPTE_LOADED);
/** What the hypervisor's tracing tells of anything that it has a hand in. */
const TRACED = obsMask(Obs.KVM_EVENT, Obs.KVM_MORE);

/** The kinds of observation that can belong to a step, by kind of step. */
const LEGAL_ROWS: Readonly<Record<number, number>> = {
  [StepKind.RARE]: AFTERWARDS | TRACED,
  [StepKind.ACCESS]: OF_ACCESS | AFTERWARDS | TRACED,
  [StepKind.STORE]: AFTERWARDS | TRACED,
  [StepKind.CLEAR_PAGE]: AFTERWARDS,
  [StepKind.REGISTER_WRITE]: LOADING | TRACED,
  [StepKind.REGISTER_SET]: AFTERWARDS,
  [StepKind.INVALIDATE]: WALKING | AFTERWARDS | TRACED,
  [StepKind.NESTED_ENTRY]: LOADING | TRACED,
  [StepKind.NESTED_EXIT]: LOADING | TRACED,
  [StepKind.GPA_ACCESS]: OF_ACCESS | AFTERWARDS,
  [StepKind.PDPTE_LOAD]: LOADING,
  [StepKind.FAULT_EXIT]: AFTERWARDS | TRACED,
  [StepKind.VM_ENTRY]: AFTERWARDS | TRACED,
  [StepKind.SOFTWARE_WALK]: OF_ACCESS | AFTERWARDS | TRACED,
  [StepKind.HOST_PAGES]: AFTERWARDS,
  [StepKind.VCPU]: AFTERWARDS,
};

const STORE_SIZES = [1, 2, 4, 8];

export class StepRules {
  private readonly findings: Findings;
  private readonly header: TraceHeader;
  /** Where what is being looked at stands; made into a place only for findings. */
  private chunkPlace: Place = {};
  private ordinal: number | undefined;
  private lastLine = 0;
  private lastSource = 0;
  private lastTime: bigint | undefined;
  /** The vCPU whose steps come now, and all that the segment has had. */
  private vcpu: number | undefined;
  private readonly vcpus = new Set<number>();

  constructor(findings: Findings, header: TraceHeader) {
    this.findings = findings;
    this.header = header;
  }

  /** Checks one chunk. `place`: the chunk's. */
  check(columns: StepColumns, place: Place): void {
    this.chunkPlace = place;
    this.ordinal = undefined;
    this.chunk(columns);
    let row = 0;
    for (let step = 0; step < columns.stepCount; step++) {
      this.ordinal = columns.firstOrdinal + step;
      this.step(columns, step);
      const end = columns.observationEnd[step]!;
      this.rows(columns, step, row, end);
      row = end;
      this.origin(columns, step);
    }
  }

  private error(id: string, sentence: string): void {
    this.find(id, 'error', sentence);
  }

  private find(id: string, severity: 'error' | 'warning', sentence: string): void {
    const place = this.ordinal === undefined ? this.chunkPlace : { ...this.chunkPlace, step: this.ordinal };
    this.findings.add(id, severity, place, sentence);
  }

  private kvm(faults: Iterable<KvmFault>): void {
    for (const { id, sentence } of faults) this.error(id, sentence);
  }

  private chunk(columns: StepColumns): void {
    const { source } = columns;
    if (source > 0 && source >= this.header.sources.length) {
      this.error('chunk.source', `the chunk comes from source ${source}, which the header does not list`);
    }
    if (source !== this.lastSource) this.lastLine = 0;
    this.lastSource = source;
    this.chunkVcpus(columns);
    for (const stimulus of columns.stimuli) {
      if (stimulus.kind === 'page-image' || stimulus.kind === 'entry-fill') this.physical(stimulus.address.hi);
    }
  }

  /** A chunk tells the state of the vCPU that goes on and of all others. */
  private chunkVcpus({ vcpu, others }: StepColumns): void {
    if (this.vcpu !== undefined && vcpu !== this.vcpu) {
      this.error(
        'chunk.vcpu',
        `the chunk begins with vCPU ${vcpu}, but the steps before it end with vCPU ${this.vcpu}`,
      );
    }
    for (const seen of this.vcpus) {
      if (seen === vcpu || others.some((each) => each.vcpu === seen)) continue;
      this.error('chunk.vcpus', `the chunk does not tell the registers of vCPU ${seen}, which has made steps before`);
    }
    this.vcpu = vcpu;
    this.vcpus.add(vcpu);
    for (const each of others) this.vcpus.add(each.vcpu);
  }

  /** A physical address that the processor does not have. */
  private physical(hi: number): void {
    const width = this.header.processor.maxphyaddr;
    if (hi >>> (width - 32) === 0) return;
    this.error('address.beyond-maxphyaddr', `a physical address has more than the processor's ${width} bits`);
  }

  private step(columns: StepColumns, step: number): void {
    const op = columns.op[step]!;
    const kind = op & STEP_KIND_MASK;
    const unknown = (op & stepKindOf(op).rest) >>> 0;
    if (unknown !== 0) this.error('step.bits', `the step's word has bits that mean nothing: 0x${unknown.toString(16)}`);
    const stimulus = kind === StepKind.RARE ? columns.stimuli[columns.operand[2 * step]!] : undefined;
    if (isKvmStep(op, stimulus)) {
      if (this.header.hypervisor?.mmu === undefined) {
        this.error('step.no-mmu', "the step is a hypervisor's own, and the header does not describe its MMU");
      }
      this.kvm(stimulus === undefined ? kvmStepFaults(columns, step) : kvmStimulusFaults(stimulus));
    }
    const lo = columns.address[2 * step]!;
    const hi = columns.address[2 * step + 1]!;
    switch (kind) {
      case StepKind.ACCESS:
        this.access(columns, step);
        return;
      case StepKind.STORE:
        this.physical(hi);
        this.store(columns, step);
        return;
      case StepKind.CLEAR_PAGE:
        this.physical(hi);
        if ((lo & 0xfff) !== 0) this.error('clear-page.alignment', `${hexText(lo, hi)} is not 4 KiB aligned`);
        return;
      case StepKind.REGISTER_WRITE:
      case StepKind.REGISTER_SET:
        this.register((op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK, 'step.register');
        return;
      case StepKind.VCPU:
        if ((lo | hi) !== 0) this.error('vcpu.address', 'a change of the vCPU has an address, which means nothing');
        this.vcpu = columns.operand[2 * step]!;
        this.vcpus.add(this.vcpu);
        return;
      default:
        return;
    }
  }

  private register(register: number, id: string): void {
    if (register >= REGISTER_COUNT) this.error(id, `there is no register ${register}`);
  }

  private access(columns: StepColumns, step: number): void {
    const op = columns.op[step]!;
    const lo = columns.address[2 * step]!;
    const length = (op >>> ACCESS_LENGTH_SHIFT) & ACCESS_LENGTH_MASK;
    if ((lo & 0xfff) + length > 0x1000) {
      this.error(
        'access.crosses-page',
        `${length} bytes at ${hexText(lo, columns.address[2 * step + 1]!)} leave the page`,
      );
    }
    if ((op & ACCESS_USER) !== 0 && ((op >>> ACCESS_CPL_SHIFT) & ACCESS_CPL_MASK) !== 3) {
      this.error('access.user-cpl', 'a user-mode access is made at a privilege level other than 3');
    }
    if ((op & ACCESS_EXPECTS_ADDRESS) === 0) return;
    this.observable(Obs.TRANSLATED);
    this.physical(columns.operand[2 * step + 1]!);
    this.offset(lo, columns.operand[2 * step]!);
  }

  /** No page is smaller than 4 KiB, so translating changes nothing below bit 12. */
  private offset(linear: number, physical: number): void {
    if (((linear ^ physical) & 0xfff) === 0) return;
    this.error('access.offset', 'the expected physical address has another page offset than the linear one');
  }

  private store(columns: StepColumns, step: number): void {
    const size = (columns.op[step]! >>> STORE_SIZE_SHIFT) & STORE_SIZE_MASK;
    if (!STORE_SIZES.includes(size)) {
      this.error('store.size', `a store has ${size} bytes; it has 1, 2, 4 or 8`);
      return;
    }
    const lo = columns.address[2 * step]!;
    if ((lo & 0xfff) + size > 0x1000) this.error('store.crosses-page', `a store of ${size} bytes leaves its page`);
    const beyond =
      size === 8 ? 0 : columns.operand[2 * step + 1]! | (size === 4 ? 0 : columns.operand[2 * step]! >>> (8 * size));
    if (beyond !== 0) this.error('store.value', `the value does not fit in the store's ${size} bytes`);
  }

  private observable(kind: number): void {
    if (((this.header.observable >>> kind) & 1) !== 0) return;
    const name = OBS_NAMES[kind] ?? String(kind);
    this.find(
      'observation.not-observable',
      'warning',
      `'${name}' is expected, but by the header the recorder could not see it, so it is not compared`,
    );
  }

  private rows(columns: StepColumns, step: number, start: number, end: number): void {
    const op = columns.op[step]!;
    const legal = LEGAL_ROWS[op & STEP_KIND_MASK]!;
    const isAccess = (op & STEP_KIND_MASK) === StepKind.ACCESS;
    let translated = expectsAddress(op) ? 1 : 0;
    let traced = false;
    for (let row = start; row < end; row++) {
      const kind = columns.observationOp[row]! & OBS_KIND_MASK;
      if (((legal >>> kind) & 1) === 0) {
        this.error('observation.kind', `'${OBS_NAMES[kind]}' cannot be observed of a step of this kind`);
      } else this.observable(kind);
      this.row(columns, row);
      traced ||= kind === Obs.KVM_EVENT || kind === Obs.KVM_MORE;
      if (kind !== Obs.TRANSLATED) continue;
      translated++;
      if (isAccess) this.offset(columns.address[2 * step]!, columns.observationAddress[2 * row]!);
    }
    if (traced) this.kvm(kvmRowsFaults(columns, start, end));
    if (translated > 1) this.error('access.translated-twice', 'an access is expected to be translated more than once');
  }

  private row(columns: StepColumns, row: number): void {
    const op = columns.observationOp[row]!;
    const kind = op & OBS_KIND_MASK;
    if ((op & OBS_LEARNED) !== 0) {
      this.error('observation.learned', 'an observation is marked as learned, which only a machine does');
    }
    const rest = kind === Obs.KVM_EVENT ? strayEventBits(op) : op & observationKindOf(op).rest;
    const unknown = (rest & ~OBS_LEARNED) >>> 0;
    if (unknown !== 0) {
      this.error('observation.bits', `an observation's word has bits that mean nothing: 0x${unknown.toString(16)}`);
    }
    if (kind === Obs.REGISTER) {
      this.register((op >>> OBS_REGISTER_SHIFT) & OBS_REGISTER_MASK, 'observation.register');
    }
    if (kind !== Obs.ELEMENT && kind !== Obs.ENTRY_WRITE && kind !== Obs.ENTRY_AFTER) return;
    const lo = columns.observationAddress[2 * row]!;
    const size = (op & OBS_FOUR_BYTES) !== 0 ? 4 : 8;
    if ((lo & (size - 1)) === 0) return;
    this.error(
      'observation.alignment',
      `an entry of ${size} bytes at ${hexText(lo, columns.observationAddress[2 * row + 1]!)} is not aligned`,
    );
  }

  /** Lines and times rise as the recorder wrote them. A merged or reordered source may have its reasons. */
  private origin(columns: StepColumns, step: number): void {
    const line = columns.lineOf(step);
    if (line !== undefined) {
      if (line < this.lastLine) {
        this.find(
          'origin.line',
          'warning',
          `the step comes from line ${line}, the one before from line ${this.lastLine}`,
        );
      }
      this.lastLine = line;
    }
    const time = columns.timeOf(step);
    if (time !== undefined && this.lastTime !== undefined && time < this.lastTime) {
      this.find('origin.time', 'warning', `the step happened ${this.lastTime - time} ns before the one before it`);
    }
    this.lastTime = time;
  }
}
