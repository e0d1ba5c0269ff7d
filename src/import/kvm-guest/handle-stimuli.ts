/** Marks of what the guest is about to do: stores, invalidations, register writes, entries, and what the VMM does. */

import { Reg, type RegId } from '../../formats/registers.ts';
import {
  AccessType,
  INVALIDATION_TYPE_MASK,
  Invalidation,
  NESTED_TLB_CONTROL_MASK,
  Provenance,
} from '../../formats/step.ts';
import { ReportedVector } from './attempt.ts';
import { demand, type MarkOf } from './marks.ts';
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
const PAGE_OFFSET = 0xfffn;
/** Memory that one madvise may drop: more than any of these guests has. */
const MAXIMUM_DROPPED = 1n << 30n;

export function stimulusHandlers(scene: Scene) {
  const { writer, tested, tables, implied } = scene;
  return {
    store(mark) {
      demand([1, 2, 4, 8].includes(mark.size), mark, `a store of ${mark.size} bytes`);
      demand(mark.address % BigInt(mark.size) === 0n, mark, 'a store that is not aligned');
      writer.store(mark.address, mark.size, mark.value, Provenance.MARK);
      tables.stored(mark.address);
      if (tables.ofInnerGuest(mark.address)) implied.announce(AccessType.WRITE, mark.address);
    },
    clearPage(mark) {
      writer.clearPage(mark.address);
      if (tables.ofInnerGuest(mark.address)) implied.announce(AccessType.WRITE, mark.address);
    },
    fill(mark) {
      const size = tables.entrySize;
      const end = (mark.address & PAGE_OFFSET) + BigInt(mark.count * size);
      demand(mark.address % BigInt(size) === 0n && end <= PAGE, mark, 'a run of entries that no page of tables holds');
      writer.fill(mark.address, mark.count, size, mark.first, mark.increment);
    },
    invlpg(mark) {
      if (scene.vmx !== undefined && !mark.inL2) scene.leaveByCall();
      writer.invalidate(Invalidation.INVLPG, 0, mark.address, 0n);
    },
    invlpga(mark) {
      writer.invalidate(Invalidation.INVLPGA, 0, mark.address, BigInt(mark.asid));
    },
    invept(mark, index) {
      demand(mark.type <= INVALIDATION_TYPE_MASK, mark, `INVEPT of type ${mark.type}`);
      if (!mark.inL2) scene.leaveByCall();
      if (accepted(scene, index)) writer.invalidate(Invalidation.INVEPT, mark.type, 0n, mark.eptp);
    },
    invvpid(mark, index) {
      demand(mark.type <= INVALIDATION_TYPE_MASK, mark, `INVVPID of type ${mark.type}`);
      if (!mark.inL2) scene.leaveByCall();
      if (accepted(scene, index)) writer.invalidate(Invalidation.INVVPID, mark.type, mark.address, mark.vpid);
    },
    registerWrite(mark, index) {
      const register = REGISTERS[mark.register];
      demand(register !== undefined, mark, `unknown register: ${mark.register}`);
      if (writer.inL2 && byHypervisor(scene, mark, index)) scene.leaveByCall();
      writer.writeRegister(register, mark.value);
    },
    vmrun(mark, index) {
      demand(mark.tlb <= NESTED_TLB_CONTROL_MASK, mark, `TLB_CONTROL ${mark.tlb}`);
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
      demand(eptp !== undefined, mark, 'VMFUNC took an EPT pointer that no mark tells');
      scene.vmx.switchEptp(eptp);
    },

    vmmDontNeed(mark) {
      demand(mark.length <= MAXIMUM_DROPPED, mark, 'more memory dropped than a guest has');
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
