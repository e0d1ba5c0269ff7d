/**
 * Accesses under test that the processor makes by itself, without an exit that would tell of them: each is a step with
 * what the guest saw of it. What KVM's emulator does for an access is in the trace and not told again; nor is a #PF that
 * KVM injects, which under shadow paging is every one.
 */

import { toBigInt } from '../../bits/word64.ts';
import { OBS_KIND_MASK, OBS_VECTOR_MASK, OBS_VECTOR_SHIFT, Obs } from '../../formats/observation.ts';
import { ACCESS_SOFTWARE, ACCESS_TYPE_MASK, ACCESS_TYPE_SHIFT, AccessType } from '../../formats/step.ts';
import type { StepColumns } from '../../trace/columns.ts';
import type { KnownMemory } from '../known-memory.ts';
import type { AccessResult, Announcement } from '../kvm-guest/attempt.ts';
import type { RegisterFile } from '../kvm-guest/register-file.ts';
import { StepWriter } from '../kvm-guest/step-writer.ts';
import { TestedAccesses } from '../kvm-guest/tested-access.ts';
import { type Draft, draft } from './draft.ts';
import type { Row } from './event-rows.ts';

const PAGE_FAULT = 14;

export interface NativeAccess {
  readonly step: Draft;
  /** It went through. */
  readonly completed: boolean;
  readonly address: bigint;
  readonly write: boolean;
}

export class NativeAccesses {
  private readonly writer: StepWriter;
  private readonly tested: TestedAccesses;
  private readonly runs: StepColumns[] = [];

  /** `splitsRmw`: see `AccessContext`. */
  constructor(memory: KnownMemory, registers: RegisterFile, splitsRmw: boolean) {
    const { runs } = this;
    this.writer = new StepWriter({ header: () => undefined, steps: (run) => runs.push(run) }, memory, registers);
    this.tested = new TestedAccesses(this.writer, splitsRmw);
  }

  /** The accesses of the processor that one announced access consists of. `intercepted`: KVM injects every #PF. */
  of(announcement: Announcement, result: AccessResult | undefined, intercepted: boolean): NativeAccess[] {
    this.tested.begin(announcement, result);
    this.tested.finish(announcement.line);
    this.writer.flush();
    const found: NativeAccess[] = [];
    for (const run of this.runs.splice(0)) {
      for (let i = 0; i < run.stepCount; i++) {
        const access = this.access(run, i, announcement.line, intercepted);
        if (access !== undefined) found.push(access);
      }
    }
    return found;
  }

  private access(run: StepColumns, i: number, position: number, intercepted: boolean): NativeAccess | undefined {
    const op = run.op[i]!;
    if ((op & ACCESS_SOFTWARE) !== 0) return undefined;
    const rows: Row[] = [];
    let completed = false;
    for (let n = i === 0 ? 0 : run.observationEnd[i - 1]!; n < run.observationEnd[i]!; n++) {
      const row = {
        op: run.observationOp[n]!,
        address: toBigInt(run.observationAddress[2 * n]!, run.observationAddress[2 * n + 1]!),
        value: toBigInt(run.observationValue[2 * n]!, run.observationValue[2 * n + 1]!),
      };
      const kind = row.op & OBS_KIND_MASK;
      const vector = (row.op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
      if (intercepted && kind === Obs.EXCEPTION && vector === PAGE_FAULT) return undefined;
      completed ||= kind === Obs.COMPLETED;
      rows.push(row);
    }
    const address = toBigInt(run.address[2 * i]!, run.address[2 * i + 1]!);
    const step = draft(op, address, toBigInt(run.operand[2 * i]!, run.operand[2 * i + 1]!), position);
    step.rows.push(...rows);
    const type = (op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK;
    return { step, completed, address, write: type === AccessType.WRITE || type === AccessType.RMW };
  }
}
