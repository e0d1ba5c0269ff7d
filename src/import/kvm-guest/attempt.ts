/**
 * An access under test, from its announcement to its result. On the way the guest's hypervisor may take exits: each is
 * an attempt of the access that failed, and the next one starts over.
 */

import { ACCESS_OF_TABLE, AccessType, Provenance, StepKind } from '../../formats/step.ts';
import { accessFlags, type Component } from './access-kinds.ts';
import type { StepWriter } from './step-writer.ts';

/** What the guest's handlers print as a vector when its hypervisor ended the access. */
export const ReportedVector = {
  /** The `int 0x80` behind the instruction was reached. */
  COMPLETED: 128,
  VMFUNC: 250,
  EPT_MISCONFIG: 251,
  OTHER_EXIT: 252,
  PAGE_FAULT_INTERCEPTED: 253,
  SECOND_STAGE: 254,
} as const;

export interface AccessResult {
  /** `undefined`: the access completed. */
  readonly vector: number | undefined;
  readonly errorCode: bigint;
  readonly cr2: bigint;
}

/** An access as a mark announces it. */
export interface Announcement {
  readonly line: number;
  readonly access: string;
  readonly va: bigint;
  readonly user: boolean;
  readonly ac: boolean;
}

export interface Attempt extends Announcement {
  readonly components: readonly Component[];
  /** What the guest sees in the end, known ahead, since the whole log is; `undefined` if the log ends before. */
  readonly result: AccessResult | undefined;
  /** Steps that give the result have been written. */
  told: boolean;
}

/** Writes the components before `failing` as completed, then `failing` itself without observations. */
export function writeComponents(
  writer: StepWriter,
  attempt: Attempt,
  failing: Component | undefined,
  completed: () => void,
): void {
  const line = writer.line;
  writer.line = attempt.line;
  for (const component of attempt.components) {
    if (component === failing) break;
    writeComponent(writer, attempt, component);
    completed();
  }
  if (failing !== undefined) writeComponent(writer, attempt, failing);
  writer.line = line;
}

function writeComponent(writer: StepWriter, attempt: Attempt, component: Component): void {
  writer.access(
    StepKind.ACCESS,
    accessFlags(component, attempt.user, attempt.ac),
    component.address,
    component.implied ? Provenance.INFERRED : Provenance.MARK,
  );
}

const PFEC_W = 1n << 1n;

function writes(component: Component): boolean {
  return component.type === AccessType.WRITE || component.type === AccessType.RMW;
}

function covers(component: Component, address: bigint): boolean {
  return address >= component.address && address < component.address + BigInt(component.length);
}

/** The component that a #PF belongs to. Without one, the instruction touched memory that the mark does not name. */
export function componentOfPageFault(attempt: Attempt, errorCode: bigint, cr2: bigint): Component | undefined {
  const wrote = (errorCode & PFEC_W) !== 0n;
  return attempt.components.find((c) => covers(c, cr2) && writes(c) === wrote);
}

/** What a `call` pushes: the only memory outside the marks that the guests' instructions may write. */
export function pushedWord(cr2: bigint, length: number): Component {
  return { type: AccessType.WRITE, address: cr2, length, software: false, implied: true, implicit: false };
}

/** An exit of the second stage as the guest's hypervisor reports it. */
export interface SecondStageExit {
  readonly gpa: bigint;
  /** EXITINFO1, or the exit qualification. */
  readonly info: bigint;
  readonly rip: bigint;
  readonly cpl: number;
  /** Guest-linear address, where the processor gives one. */
  readonly gla: bigint | undefined;
  /** What was being translated: a paging-structure entry of the guest, or the final address. */
  readonly ofTable: boolean;
  readonly write: boolean;
  readonly fetch: boolean;
}

/**
 * The component that an exit belongs to, or `undefined` if it belongs to something else that the guest did meanwhile.
 * A processor's guest-linear address settles it; KVM's emulator leaves an old one, and SVM has none: then the
 * instruction pointer does.
 */
export function componentOfExit(attempt: Attempt, exit: SecondStageExit): Component | undefined {
  const { components } = attempt;
  const fetched = components.find((c) => !c.software && c.type === AccessType.FETCH && c.address === exit.rip);
  if (fetched !== undefined) return fetched;
  // The first byte of the page of operations: its own fetch, before the instruction under test.
  if ((exit.rip & 0xfffn) === 0n) return undefined;
  const reached = components.filter((c) => c.software || exit.gla === undefined || covers(c, exit.gla));
  if (exit.ofTable) return reached[0];
  return reached.find((c) => c.software || writes(c) === exit.write) ?? undefined;
}

/**
 * KVM's emulator loses the page offset of the address it reports (6.1): an exit without one for an access that has one
 * came from the emulator, e.g. because no memory slot is behind the page.
 */
export function asReported(component: Component, exit: SecondStageExit): Component {
  const lost = !exit.ofTable && (exit.gpa & 0xfffn) === 0n && (component.address & 0xfffn) !== 0n;
  return lost && !component.software ? { ...component, software: true } : component;
}

/** Writes an exit that no announced access accounts for. `delivering`: the processor was delivering an exception. */
export function writeUnknownExit(writer: StepWriter, exit: SecondStageExit, delivering: boolean): void {
  // Tables are written for their A and D bits, whatever the access was.
  const wrote = exit.write && !exit.ofTable;
  const type =
    exit.fetch || (exit.gla === exit.rip && !delivering)
      ? AccessType.FETCH
      : wrote
        ? AccessType.WRITE
        : AccessType.READ;
  const user = exit.cpl === 3;
  if (exit.gla !== undefined) {
    const component = { type, address: exit.gla, length: 0, software: false, implied: true, implicit: delivering };
    writer.access(StepKind.ACCESS, accessFlags(component, user, false), exit.gla, Provenance.INFERRED);
    return;
  }
  const component = { type, address: exit.gpa, length: 0, software: false, implied: true, implicit: false };
  writer.access(
    StepKind.GPA_ACCESS,
    accessFlags(component, user, false) | (exit.ofTable ? ACCESS_OF_TABLE : 0),
    exit.gpa,
    Provenance.INFERRED,
  );
}
