/** Marks of a guest that is a hypervisor: what its guest stopped for, and what it does about it. */

import { Provenance } from '../../formats/step.ts';
import { demand, type Mark, type MarkOf } from './marks.ts';
import type { Handlers, Scene } from './scene.ts';

/** Exit codes of SVM (APM vol. 2 appendix C) and exit reasons of VMX (SDM vol. 3D appendix C). */
const SVM_PAGE_FAULT = 0x4en;
const SVM_INTERRUPT = 0x60n;
const SVM_NPF = 0x400n;
const VMX_EXCEPTION = 0n;
const VMX_EPT_VIOLATION = 48n;
const VMX_EPT_MISCONFIG = 49n;
const VMX_VMFUNC = 59n;
const VMX_PML_FULL = 62n;

/** EXITINFO1 of a nested page fault (APM vol. 2 15.25.6). */
const NPF_WRITE = 1n << 1n;
const NPF_FETCH = 1n << 4n;
const NPF_OF_TABLE = 1n << 33n;
/** Exit qualification of an EPT violation (SDM vol. 3C table 28-7). */
const EPT_WRITE = 1n << 1n;
const EPT_FETCH = 1n << 2n;
const EPT_LINEAR = 1n << 7n;
const EPT_FINAL = 1n << 8n;

export function hypervisorHandlers(scene: Scene) {
  const { writer, tested, tables } = scene;
  /** An exit that the mark itself tells. */
  const leave = (reason: bigint, information: bigint): void =>
    scene.leave({ reason, information, provenance: Provenance.MARK });
  /** The hypervisor speaks of what its guest called it for. */
  const called = (mark: Mark): void => {
    tested.finishQuiet(mark.line);
    scene.leaveByCall();
  };
  const entrySet = (mark: MarkOf<'l1SetNpte' | 'l1SetEpte'>): void => {
    called(mark);
    demand(mark.address % 8n === 0n, mark, 'an entry that is not aligned');
    if (scene.announcesStores) tables.compare(mark.address, 8, mark.entry);
    else writer.store(mark.address, 8, mark.entry, Provenance.MARK);
    if (mark.kind === 'l1SetNpte' && scene.svm !== undefined) scene.svm.tlbControl = mark.tlb;
  };
  const eptExit = (mark: MarkOf<'l1Violation' | 'l1Misconfig'>): void => {
    const misconfig = mark.kind === 'l1Misconfig';
    tested.secondStageExit(
      {
        ...mark,
        // A misconfiguration has no qualification: the first access of the instruction met it.
        ofTable: misconfig || (mark.info & (EPT_LINEAR | EPT_FINAL)) === EPT_LINEAR,
        write: (mark.info & EPT_WRITE) !== 0n,
        fetch: (mark.info & EPT_FETCH) !== 0n,
      },
      misconfig ? 'misconfig' : 'violation',
    );
    leave(misconfig ? VMX_EPT_MISCONFIG : VMX_EPT_VIOLATION, mark.info);
  };
  const delivering = (mark: Mark): void => tested.delivery(mark.line);
  const mended = (): void => tested.mended();

  return {
    l1Vmcb(mark) {
      tables.useNpt(mark.ncr3, mark.np !== 0);
    },
    l1Vmcs(mark) {
      tables.useEpt(mark.ept, mark.useept !== 0);
    },
    l1Skinit() {
      if (!scene.announcesRegisters) scene.entersUnannounced = true;
    },
    l1L2Done(mark) {
      scene.entersUnannounced = false;
      called(mark);
    },

    // Exits.
    l1Npf(mark) {
      tested.secondStageExit(
        {
          ...mark,
          gla: undefined,
          ofTable: (mark.info & NPF_OF_TABLE) !== 0n,
          write: (mark.info & NPF_WRITE) !== 0n,
          fetch: (mark.info & NPF_FETCH) !== 0n,
        },
        'npf',
      );
      leave(SVM_NPF, mark.info);
    },
    l1Violation: eptExit,
    l1Misconfig: eptExit,
    l1PageFault(mark) {
      tested.pageFaultExit(mark.info, mark.cr2, mark.line);
      if (scene.svm === undefined) leave(VMX_EXCEPTION, mark.cr2);
      else leave(SVM_PAGE_FAULT, mark.info);
    },
    l1PmlFull: (mark) => leave(VMX_PML_FULL, mark.info),
    l1Interrupted: () => leave(SVM_INTERRUPT, 0n),
    l1VmfuncExit: (mark) => leave(VMX_VMFUNC, mark.info),
    l1UnexpectedSvm(mark) {
      leave(mark.code, mark.info);
      scene.entersUnannounced = false;
    },
    // An exit while an exception was being delivered; the next mark tells it.
    l1ExitIntInfo: delivering,
    l1IdtVectoring: delivering,

    // What the hypervisor mends.
    l1NpfFix(mark, index) {
      const exit = scene.marks.slice(0, index).findLast((each) => each.kind === 'l1Npf');
      if (!scene.announcesStores && exit?.kind === 'l1Npf') {
        tables.fixSecond(scene.nextDump(index), exit.gpa, mark.entry);
      }
      mended();
    },
    l1EptFix: mended,
    l1ShadowFix: mended,

    // What it does when called.
    l1SetNpte: entrySet,
    l1SetEpte: entrySet,
    l1TlbControl: called,
    l1Asid: called,
    l1Vpid: called,
    l1Invlpga: called,
    l1Ncr3: called,
    l1EptpAd: called,
    l1Eptp: called,
    l1Efer: called,
    l1Cr4: called,
    l1Cr0: called,
    l1Proc2: called,
    l1PmlBuffer: called,
    l1PmlIndex: called,
    l1Inject: called,
    l1InterceptIntr: called,
  } satisfies Partial<Handlers>;
}
