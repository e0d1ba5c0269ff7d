/** Marks of what the guest is about to do: stores, invalidations, register writes, entries, and what the VMM does. */

import { Problem } from '../../bits/problem.ts';
import { Reg, type RegId } from '../../formats/registers.ts';
import { AccessType, Invalidation, Provenance } from '../../formats/step.ts';
import { ReportedVector } from './attempt.ts';
import type { MarkOf } from './marks.ts';
import { SvmNesting, VmxNesting, vmrunState } from './nesting.ts';
import type { Handlers, Scene } from './scene.ts';

const REGISTERS: Readonly<Record<string, RegId>> = {
  cr0: Reg.CR0,
  cr3: Reg.CR3,
  cr4: Reg.CR4,
  efer: Reg.EFER,
  pkru: Reg.PKRU,
};

const PAGE = 0x1000n;

export function stimulusHandlers(scene: Scene) {
  const { writer, tested, tables, implied } = scene;
  return {
    store(mark) {
      writer.store(mark.address, mark.size, mark.value, Provenance.MARK);
      tables.stored(mark.address);
      if (tables.ofInnerGuest(mark.address)) implied.announce(AccessType.WRITE, mark.address);
    },
    clearPage(mark) {
      writer.clearPage(mark.address);
      if (tables.ofInnerGuest(mark.address)) implied.announce(AccessType.WRITE, mark.address);
    },
    fill(mark) {
      writer.fill(mark.address, mark.count, tables.entrySize, mark.first, mark.increment);
    },
    invlpg(mark) {
      if (scene.vmx !== undefined && !mark.inL2) scene.leaveByCall();
      writer.invalidate(Invalidation.INVLPG, 0, mark.address, 0n);
    },
    invlpga(mark) {
      writer.invalidate(Invalidation.INVLPGA, 0, mark.address, BigInt(mark.asid));
    },
    invept(mark, index) {
      if (!mark.inL2) scene.leaveByCall();
      if (accepted(scene, index)) writer.invalidate(Invalidation.INVEPT, mark.type, 0n, mark.eptp);
    },
    invvpid(mark, index) {
      if (!mark.inL2) scene.leaveByCall();
      if (accepted(scene, index)) writer.invalidate(Invalidation.INVVPID, mark.type, mark.address, mark.vpid);
    },
    registerWrite(mark, index) {
      const register = REGISTERS[mark.register];
      if (register === undefined) {
        throw new Problem('E_IMPORT', `unknown register: ${mark.register}`, { line: mark.line });
      }
      if (writer.inL2 && byHypervisor(scene, mark, index)) scene.leaveByCall();
      writer.writeRegister(register, mark.value);
    },
    vmrun(mark, index) {
      tested.finishQuiet(mark.line);
      scene.leaveByCall();
      if (scene.entryRefused(index)) return;
      scene.svm ??= new SvmNesting(writer);
      scene.svm.enter(vmrunState(mark), Provenance.MARK);
    },
    vmwrite(mark) {
      tested.finishQuiet(mark.line);
      scene.leaveByCall();
      scene.vmx ??= new VmxNesting(writer);
      scene.vmx.vmwrite(mark.field, mark.value);
    },
    vmfunc(mark, index) {
      const next = scene.marks[index + 1];
      const switched = next?.kind === 'vmfuncResult' && next.vector === ReportedVector.COMPLETED;
      if (!switched || scene.vmx === undefined) return;
      const eptp = writer.memory.read(scene.vmx.eptpList + BigInt(8 * mark.index), 8);
      if (eptp === undefined) {
        throw new Problem('E_IMPORT', 'VMFUNC took an EPT pointer that no mark tells', { line: mark.line });
      }
      scene.vmx.switchEptp(eptp);
    },

    vmmDontNeed(mark) {
      writer.note(`madvise(MADV_DONTNEED) gpa=${mark.address.toString(16)} length=${mark.length.toString(16)}`);
      for (let at = 0n; at < mark.length; at += PAGE) writer.clearPage(mark.address + at);
    },
    vmmSlotDelete(mark) {
      writer.note(`memory slot ${mark.slot} deleted`);
    },
    vmmSlotAdd(mark) {
      writer.note(`memory slot ${mark.slot} added`);
    },
    vmmSlotFlags(mark) {
      writer.note(`memory slot ${mark.slot} flags=${mark.flags.toString(16)}`);
    },
    vmmDirtyLogBegin(mark) {
      writer.note(`dirty log of slot ${mark.slot} read`);
    },
  } satisfies Partial<Handlers>;
}

/** The INVEPT or INVVPID that a mark announces did not fail: the next mark says so. */
function accepted(scene: Scene, index: number): boolean {
  const next = scene.marks[index + 1];
  const failed = (next?.kind === 'l1Invept' || next?.kind === 'l1Invvpid') && next.flags !== 0n;
  if (failed) scene.count('invalidation refused');
  return !failed;
}

/** Who writes: with VMX the mark says so, with SVM the hypervisor's next word confirms its own writes. */
function byHypervisor(scene: Scene, mark: MarkOf<'registerWrite'>, index: number): boolean {
  if (scene.vmx !== undefined) return !mark.inL2;
  const next = scene.marks[index + 1]?.kind;
  return next === 'l1Efer' || next === 'l1Cr4' || next === 'l1Cr0';
}
