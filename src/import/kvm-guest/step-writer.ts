/**
 * Writes steps: one method per kind, in bigints, which this importer works with throughout. Keeps the importer's
 * knowledge of memory and registers in agreement with what it has written, and hands full runs of steps to the sink.
 */

import { fromBigInt } from '../../bits/word64.ts';
import {
  OBS_DIM_SHIFT,
  OBS_FOUR_BYTES,
  OBS_LEVEL_SHIFT,
  OBS_VECTOR_SHIFT,
  Obs,
  type ObsKind,
} from '../../formats/observation.ts';
import { Reg, type RegId } from '../../formats/registers.ts';
import {
  ACCESS_EXPECTS_ADDRESS,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_SHIFT,
  NESTED_SVM,
  NESTED_TLB_CONTROL_SHIFT,
  PROVENANCE_SHIFT,
  Provenance,
  STEP_KIND_MASK,
  STEP_REGISTER_SHIFT,
  STORE_KNOWLEDGE,
  STORE_SIZE_SHIFT,
  StepKind,
} from '../../formats/step.ts';
import { StepBuilder } from '../../trace/columns.ts';
import type { Stimulus } from '../../trace/stimulus.ts';
import type { KnownMemory } from '../known-memory.ts';
import type { StepSink } from '../sink.ts';
import type { RegisterFile } from './register-file.ts';

/** Steps per run handed to the sink. */
const RUN_LENGTH = 16_384;

export class StepWriter {
  /** Line of the log that the next steps come from. */
  line = 0;
  readonly memory: KnownMemory;
  readonly registers: RegisterFile;
  private readonly sink: StepSink;
  private readonly builder = new StepBuilder();
  private runRegisters: Uint32Array;
  /** The last step is a store, on which observations are not looked at. */
  private afterStore = false;

  constructor(sink: StepSink, memory: KnownMemory, registers: RegisterFile) {
    this.sink = sink;
    this.memory = memory;
    this.registers = registers;
    this.runRegisters = registers.snapshot();
  }

  private step(op: number, address: bigint, operand: bigint): void {
    this.makeRoom();
    const a = fromBigInt(address);
    const o = fromBigInt(operand);
    this.builder.step(op >>> 0, a.lo, a.hi, o.lo, o.hi, this.line);
    this.afterStore = (op & STEP_KIND_MASK) === StepKind.STORE;
  }

  private rare(stimulus: Stimulus, provenance: number): void {
    this.makeRoom();
    this.builder.rare(stimulus, provenance << PROVENANCE_SHIFT, this.line);
    this.afterStore = false;
  }

  private makeRoom(): void {
    if (this.builder.stepCount >= RUN_LENGTH) this.flush();
  }

  /** Hands what there is to the sink. */
  flush(): void {
    if (this.builder.stepCount === 0) return;
    this.sink.steps(this.builder.take(this.runRegisters));
    this.runRegisters = this.registers.snapshot();
  }

  note(text: string): void {
    this.rare({ kind: 'note', text }, Provenance.MARK);
  }

  store(address: bigint, size: number, value: bigint, provenance: number): void {
    this.step(
      StepKind.STORE | (provenance << PROVENANCE_SHIFT) | (size << STORE_SIZE_SHIFT),
      address,
      BigInt.asUintN(8 * size, value),
    );
    this.memory.write(address, size, value);
  }

  /** Memory is found to hold `value`; nobody is known to have stored it. */
  know(address: bigint, size: 4 | 8, value: bigint, provenance: number): void {
    this.step(
      StepKind.STORE | (provenance << PROVENANCE_SHIFT) | (size << STORE_SIZE_SHIFT) | STORE_KNOWLEDGE,
      address,
      value,
    );
    this.memory.write(address, size, value);
  }

  clearPage(address: bigint): void {
    this.step(StepKind.CLEAR_PAGE | (Provenance.MARK << PROVENANCE_SHIFT), address, 0n);
    this.memory.clear(address);
  }

  fill(address: bigint, count: number, size: 4 | 8, first: bigint, increment: bigint): void {
    this.rare(
      {
        kind: 'entry-fill',
        address: fromBigInt(address),
        count,
        first: fromBigInt(first),
        increment: fromBigInt(increment),
        size,
      },
      Provenance.MARK,
    );
    for (let i = 0; i < count; i++) {
      const value = BigInt.asUintN(8 * size, first + BigInt(i) * increment);
      this.memory.write(address + BigInt(i * size), size, value);
    }
  }

  /** A page as a dump has it. */
  pageImage(frame: number, words: Uint32Array): void {
    this.rare({ kind: 'page-image', address: fromBigInt(BigInt(frame) << 12n), words }, Provenance.DUMP);
    this.memory.setPage(frame, words);
  }

  writeRegister(register: RegId, value: bigint): void {
    this.step(
      StepKind.REGISTER_WRITE | (Provenance.MARK << PROVENANCE_SHIFT) | (register << STEP_REGISTER_SHIFT),
      0n,
      value,
    );
    this.registers.write(register, value);
  }

  /** The register is known to hold `value`; writes nothing if that is no news. */
  setRegister(register: RegId, value: bigint, provenance: number): void {
    if (this.registers.get(register) === value) return;
    this.step(StepKind.REGISTER_SET | (provenance << PROVENANCE_SHIFT) | (register << STEP_REGISTER_SHIFT), 0n, value);
    this.registers.set(register, value);
  }

  invalidate(kind: number, type: number, address: bigint, operand: bigint): void {
    this.step(
      StepKind.INVALIDATE |
        (Provenance.MARK << PROVENANCE_SHIFT) |
        (kind << INVALIDATION_SHIFT) |
        (type << INVALIDATION_TYPE_SHIFT),
      address,
      operand,
    );
  }

  nestedEntry(svm: boolean, tlbControl: number, provenance: number): void {
    this.step(
      StepKind.NESTED_ENTRY |
        (provenance << PROVENANCE_SHIFT) |
        (svm ? NESTED_SVM : 0) |
        (tlbControl << NESTED_TLB_CONTROL_SHIFT),
      0n,
      0n,
    );
  }

  nestedExit(svm: boolean, reason: bigint, information: bigint, provenance: number): void {
    this.step(StepKind.NESTED_EXIT | (provenance << PROVENANCE_SHIFT) | (svm ? NESTED_SVM : 0), information, reason);
  }

  /** `flags`: `ACCESS_*` bits. `expected`: the physical address that the access must lead to. */
  access(kind: number, flags: number, address: bigint, provenance: number, expected?: bigint): void {
    this.step(
      kind | (provenance << PROVENANCE_SHIFT) | flags | (expected === undefined ? 0 : ACCESS_EXPECTS_ADDRESS),
      address,
      expected ?? 0n,
    );
  }

  /** An observation expected of the last step. */
  observe(kind: ObsKind, address: bigint, value: bigint, moreBits = 0): void {
    const a = fromBigInt(address);
    const v = fromBigInt(value);
    this.builder.observe((kind | moreBits) >>> 0, a.lo, a.hi, v.lo, v.hi);
  }

  observeException(vector: number, errorCode: bigint, cr2: bigint): void {
    this.observe(Obs.EXCEPTION, vector === 14 ? cr2 : 0n, errorCode, vector << OBS_VECTOR_SHIFT);
  }

  /** The guest re-read an entry after the last step. */
  observeEntry(dim: number, level: number, address: bigint, size: 4 | 8, value: bigint): void {
    if (this.afterStore) this.note('the guest reads entries');
    const bits = (dim << OBS_DIM_SHIFT) | (level << OBS_LEVEL_SHIFT) | (size === 4 ? OBS_FOUR_BYTES : 0);
    this.observe(Obs.ENTRY_AFTER, address, value, bits);
  }

  /** The guest's guest is running. */
  get inL2(): boolean {
    return this.registers.get(Reg.GUEST_MODE) !== 0n;
  }
}
