/**
 * What all marks act upon: the steps being written, what is known of registers and tables, whether the guest's guest
 * runs, and the access under test.
 */

import { Problem } from '../../bits/problem.ts';
import { Provenance } from '../../formats/step.ts';
import { KnownMemory } from '../known-memory.ts';
import type { StepSink } from '../sink.ts';
import type { Dump } from './dump.ts';
import { ImpliedAccesses } from './implied-accesses.ts';
import type { Mark, MarkKind, MarkOf } from './marks.ts';
import { type ExitCause, type Nesting, SvmNesting, type VmxNesting } from './nesting.ts';
import { processorOf } from './processor.ts';
import type { GuestRecording } from './recording.ts';
import { RegisterFile } from './register-file.ts';
import { StepWriter } from './step-writer.ts';
import { TableKnowledge } from './table-knowledge.ts';
import { TestedAccesses } from './tested-access.ts';
import { ToldState } from './told-state.ts';

/** What becomes of each mark. `index`: its position in the log's marks. */
export type Handlers = { readonly [Kind in MarkKind]: (mark: MarkOf<Kind>, index: number) => void };

export class Scene {
  /** What was met and left out on purpose, or had to be concluded, with counts. */
  readonly omissions = new Map<string, number>();
  readonly recording: GuestRecording;
  readonly marks: readonly Mark[];
  readonly writer: StepWriter;
  readonly tested: TestedAccesses;
  readonly told: ToldState;
  readonly tables: TableKnowledge;
  readonly implied: ImpliedAccesses;
  /** The guest announces its register writes, and its stores. Recordings of the first kind of guest do neither. */
  readonly announcesRegisters: boolean;
  readonly announcesStores: boolean;
  svm: SvmNesting | undefined;
  vmx: VmxNesting | undefined;
  /** The guest's hypervisor runs its guest, though the log has no mark for entries. */
  entersUnannounced = false;
  private label = '';

  /** `splitsRmw`: see `AccessContext`. */
  constructor(recording: GuestRecording, sink: StepSink, splitsRmw: boolean) {
    this.recording = recording;
    this.marks = recording.marks;
    this.announcesRegisters = this.marks.some((mark) => mark.kind === 'registerWrite');
    this.announcesStores = this.marks.some((mark) => mark.kind === 'store');
    const memory = new KnownMemory();
    this.writer = new StepWriter(sink, memory, new RegisterFile(memory));
    const count = (what: string) => this.count(what);
    this.tested = new TestedAccesses(this.writer, splitsRmw);
    this.told = new ToldState(this.writer, this.announcesRegisters, count);
    this.tables = new TableKnowledge(this.writer, this.announcesStores, processorOf(this.marks).maxphyaddr, count);
    this.implied = new ImpliedAccesses(this.writer);
  }

  count(what: string): void {
    this.omissions.set(what, (this.omissions.get(what) ?? 0) + 1);
  }

  /** A note when the name of what is tested changes. */
  relabel(label: string): void {
    if (label === this.label) return;
    this.label = label;
    this.writer.note(label);
  }

  // Dumps.

  get firstDump(): Dump | undefined {
    return this.recording.dumps.values().next().value;
  }

  /** The next dump that the log names after a mark. */
  nextDump(index: number): Dump | undefined {
    for (let at = index; at < this.marks.length; at++) {
      const mark = this.marks[at]!;
      const dump = mark.kind === 'dump' ? this.recording.dumps.get(mark.file) : undefined;
      if (dump !== undefined) return dump;
    }
    return undefined;
  }

  // Entries into the guest's guest, and exits.

  private get nesting(): Nesting | undefined {
    return this.svm ?? this.vmx;
  }

  /** An exit, if the guest's guest runs. */
  leave(cause: ExitCause): void {
    if (this.writer.inL2) this.nesting?.leave(cause);
  }

  /** An exit of which the log only shows that it happened: the guest's guest called its hypervisor. */
  leaveByCall(): void {
    const { nesting } = this;
    if (nesting !== undefined) this.leave({ reason: nesting.call, information: 0n, provenance: Provenance.INFERRED });
  }

  /** The entry that a mark announces fails its consistency checks: the next mark says so. */
  entryRefused(index: number): boolean {
    switch (this.marks[index + 1]?.kind) {
      case 'l1Refused':
      case 'l1RefusedNcr3':
      case 'l1RefusedAsid':
      case 'l1BadEntryFailed':
      case 'l1BadEntryExited':
        this.count('entry refused');
        return true;
      default:
        return false;
    }
  }

  /** An entry that the log does not mark, with the state that a dump shows. */
  enterUnannounced(line: number): void {
    const dump = [...this.recording.dumps.values()].find((each) => each.vmcb !== undefined);
    if (dump?.vmcb === undefined) {
      throw new Problem('E_IMPORT', 'no dump shows how the guest runs its own guest', { line });
    }
    this.svm ??= new SvmNesting(this.writer);
    const register = (name: string): bigint => dump.registers.get(name) ?? 0n;
    const { nestedControl, ncr3, asid } = dump.vmcb;
    this.svm.enter(
      {
        np: Number(nestedControl & 1n),
        ncr3,
        asid: Number(asid),
        tlb: this.svm.tlbControl,
        guest: [register('cr0'), register('cr3'), register('cr4'), register('efer')],
      },
      Provenance.INFERRED,
    );
  }
}
