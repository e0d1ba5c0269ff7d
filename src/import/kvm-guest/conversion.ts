/**
 * From marks to steps: the guest's log told again, in order. What becomes of each mark is in the four files of handlers;
 * this one puts them together, and lists the marks of which nothing becomes.
 */

import type { StepSink } from '../sink.ts';
import { accessHandlers } from './handle-accesses.ts';
import { hypervisorHandlers } from './handle-hypervisor.ts';
import { stateHandlers } from './handle-states.ts';
import { stimulusHandlers } from './handle-stimuli.ts';
import type { Mark, MarkKind } from './marks.ts';
import type { GuestRecording } from './recording.ts';
import { type Handlers, Scene } from './scene.ts';

/** Marks with nothing for paging in them, or nothing that another mark does not tell; the README says which is which. */
const WITHOUT_CONSEQUENCE = [
  'vmmCapabilities',
  'cpuid',
  'vmmExitCommand',
  'vmmEnd',
  'translateBegin',
  'vmmDirtyLog',
  'vmmSignal',
  'vmcallInject',
  'injected',
  'vmfuncResult',
  'boot32',
  'pagingOn',
  'pagingOff',
  'cr3OtherPcid',
  'cr3NoFlush',
  'pdpteReserved',
  'cpu',
  'done',
  'l1Cpuid',
  'l1Vmx',
  'l1Ept',
  'l1VmfuncCapability',
  'l1Vmxon',
  'l1Vmclear',
  'l1Vmptrld',
  'l1Apic',
  'l1BadEfer',
  'l1Refused',
  'l1RefusedNcr3',
  'l1RefusedAsid',
  'l1BadEntryFailed',
  'l1BadEntryExited',
  'l1Invept',
  'l1Invvpid',
  'l1PmlEntry',
  'l1EndSvm',
  'l1EndVmx',
  'l2End',

  'l2WriteProtectOff',
  'l2Cr3Reload',
  'l2Smep',
  'l2Smap',
  'l2RequestMsi',
  'l2AfterMsi',
] as const satisfies readonly MarkKind[];

type Passed = Pick<Handlers, (typeof WITHOUT_CONSEQUENCE)[number]>;

/**
 * Converts a recording into steps for `sink`; returns what was left out on purpose or had to be concluded, with counts.
 * `splitsRmw`: the recorded processor makes a locked read-modify-write as a load and then a store.
 */
export function convert(recording: GuestRecording, sink: StepSink, splitsRmw: boolean): ReadonlyMap<string, number> {
  const scene = new Scene(recording, sink, splitsRmw);
  const passed = Object.fromEntries(WITHOUT_CONSEQUENCE.map((kind) => [kind, () => undefined])) as unknown as Passed;
  const handlers: Handlers = {
    ...stimulusHandlers(scene),
    ...accessHandlers(scene),
    ...stateHandlers(scene),
    ...hypervisorHandlers(scene),
    ...passed,
  };
  scene.marks.forEach((mark, index) => {
    scene.writer.line = mark.line;
    catchUp(scene, mark);
    // Kind and handler belong together, which the compiler cannot see through the union.
    (handlers[mark.kind] as (mark: Mark, index: number) => void)(mark, index);
  });
  scene.writer.flush();
  return scene.omissions;
}

/** What must have happened before a mark, where nothing in the log says so. */
function catchUp(scene: Scene, mark: Mark): void {
  const { writer, implied } = scene;
  // Only the hypervisor's mending of the last exit comes without an entry in between.
  if (scene.entersUnannounced && !writer.inL2 && mark.kind !== 'l1NpfFix') scene.enterUnannounced(mark.line);
  if (!mark.kind.startsWith('l1') && mark.kind !== 'vmentry') implied.write();
}
