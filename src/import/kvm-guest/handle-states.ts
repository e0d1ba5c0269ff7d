/** Marks of states: what registers hold, as the guest says, and what a dump shows. */

import { Reg } from '../../formats/registers.ts';
import { Provenance } from '../../formats/step.ts';
import type { MarkOf } from './marks.ts';
import type { Handlers, Scene } from './scene.ts';

/** State in which the VMM starts a guest: protected mode without paging. */
const START_CR0 = 0x11n;
/** CR3 bits 3 and 4: how the root table is cached. */
const CACHE_BITS = 0x18n;

export function stateHandlers(scene: Scene) {
  const { writer, told, tables } = scene;
  const holds = (mark: { cr0: bigint; cr3: bigint; cr4: bigint }): void => {
    told.holds(Reg.CR0, mark.cr0);
    told.holds(Reg.CR4, mark.cr4);
    told.holds(Reg.CR3, mark.cr3);
  };
  return {
    vmmStart(mark) {
      writer.note(`guest ${mark.blob}`);
      tables.useShape(mark.mode);
      start(scene, mark);
    },
    boot(mark) {
      writer.setRegister(Reg.CR3, mark.cr3, Provenance.MARK);
      const dump = scene.firstDump;
      if (dump !== undefined && tables.unknown(mark.cr3)) tables.image(dump, mark.cr3);
    },
    root(mark) {
      told.written(Reg.CR3, mark.cr3);
    },
    configuration(mark) {
      holds(mark);
      told.holds(Reg.EFER, mark.efer);
    },
    pagingOnState: holds,
    l2Start: holds,
    l1Svm: holds,
    globalOn: () => told.globalPages(true),
    globalOff: () => told.globalPages(false),
    pseOn: () => told.pageSizeExtensions(true),
    pseOff: () => told.pageSizeExtensions(false),
    pcidOn: () => told.pcids(true),
    keysOn(mark) {
      told.written(Reg.CR4, mark.cr4);
    },
    pkru(mark) {
      told.written(Reg.PKRU, mark.pkru);
    },
    writeProtect(mark) {
      told.writeProtect(mark.wp !== 0);
    },
    cr3Switch(mark) {
      told.written(Reg.CR3, mark.cr3);
    },
    cr3Reload: () => told.rewritten(Reg.CR3, 0n),
    cr3CacheBits: () => told.rewritten(Reg.CR3, CACHE_BITS),
    dump(mark) {
      const dump = scene.recording.dumps.get(mark.file);
      writer.note(`dump ${mark.file}`);
      if (dump === undefined) return;
      if (dump.gdtBase !== undefined) scene.tested.gdtBase = dump.gdtBase;
      told.dumped(dump);
      if (!scene.announcesStores) tables.imageAll(dump);
    },
  } satisfies Partial<Handlers>;
}

function start(scene: Scene, mark: MarkOf<'vmmStart'>): void {
  const { writer, marks, firstDump } = scene;
  const first = marks.find((each) => each.kind === 'registerWrite');
  const longMode = !mark.blob.includes('g32');
  // The 64-bit guests write CR4 first of all; another beginning means that they do not announce their boot.
  const booted = longMode && (first === undefined || first.register !== 'cr4');
  if (!booted || firstDump === undefined) {
    writer.setRegister(Reg.CR0, START_CR0, Provenance.INFERRED);
    return;
  }
  const { registers } = firstDump;
  writer.setRegister(Reg.CR4, registers.get('cr4') ?? 0n, Provenance.INFERRED);
  writer.setRegister(Reg.EFER, registers.get('efer') ?? 0n, Provenance.INFERRED);
  writer.setRegister(Reg.CR0, registers.get('cr0') ?? 0n, Provenance.INFERRED);
}
