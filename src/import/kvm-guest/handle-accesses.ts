/** Marks of accesses and of what came of them. */

import { Obs } from '../../formats/observation.ts';
import {
  ACCESS_SOFTWARE,
  ACCESS_TYPE_SHIFT,
  AccessType,
  Invalidation,
  Provenance,
  StepKind,
} from '../../formats/step.ts';
import { type AccessResult, ReportedVector } from './attempt.ts';
import { demand, type MarkOf } from './marks.ts';
import type { Handlers, Scene } from './scene.ts';

const PFEC_RSVD = 1n << 3n;

type QuietResult = MarkOf<'quietNpt' | 'quietEpt' | 'quietNptPreset' | 'quietEptPreset'>;

export function accessHandlers(scene: Scene) {
  const { writer, tested, tables, implied } = scene;
  /** A byte that the next access stores into a table. */
  let byteStore: MarkOf<'nextStore'> | undefined;
  /** A P line of an EPT recording, whose access begins with the next entry. */
  let armed: number | undefined;

  /** `index`: of a mark before the Q line that tells the result. */
  const beginQuiet = (va: bigint, access: string, ac: boolean, index: number): void => {
    const found = quietResult(scene, index);
    tested.begin({ line: writer.line, access, va, user: true, ac }, found && asResult(found), () => {
      if (found !== undefined && 'second' in found) tables.seeProtecting(found.second);
    });
  };

  /** The access that a P line of an EPT recording stands for: its Q line names the kind, the tables the address. */
  const beginArmed = (index: number): void => {
    if (armed === undefined) return;
    const line = armed;
    armed = undefined;
    const result = quietResult(scene, index);
    const va = tables.protectedAddress();
    demand(
      result !== undefined && va !== undefined,
      { line },
      'an access to a protected table without result or address',
    );
    beginQuiet(va, result.access, false, index);
  };

  const finish = (mark: MarkOf<'completed' | 'excepted'>): void => {
    tested.finish(mark.line);
    if (byteStore !== undefined && mark.kind === 'completed') {
      writer.store(byteStore.address, byteStore.size, byteStore.value, Provenance.MARK);
    }
    byteStore = undefined;
    const reserved = mark.kind === 'excepted' && mark.vector === 14 && (mark.errorCode & PFEC_RSVD) !== 0n;
    tables.seeLeaf(mark.entry, reserved);
  };

  const finishQuiet = (mark: QuietResult): void => {
    tested.finishQuiet(mark.line);
    if ('entry' in mark) tables.seeProtected(mark.entry);
  };

  const second = (mark: MarkOf<'secondNpt' | 'secondEpt'>): void => {
    demand(mark.level >= 1 && mark.level <= 4, mark, `an entry of level ${mark.level}`);
    tables.seeSecond(mark.gpa, mark.level, mark.entry);
  };

  return {
    access(mark, index) {
      scene.relabel(mark.configuration === '' ? mark.tag : `${mark.tag} cfg=${mark.configuration}`);
      if (mark.entryAddress !== 0n) tables.compareLeaf(mark.entryAddress, mark.entry);
      const user = mark.user !== 0;
      if (!scene.announcesStores) {
        const dump = scene.nextDump(index);
        tables.learn(dump, mark.va, mark.entryAddress);
        if (mark.access === 'fep-x') tables.learnFetched(dump, mark.va - 1n, user);
      }
      if (mark.access === 'fep-invlpg') writer.invalidate(Invalidation.INVLPG, 0, mark.va, 0n);
      else tested.begin({ ...mark, user, ac: mark.ac !== 0 }, resultOf(scene, mark, index));
    },
    completed: finish,
    excepted: finish,
    nextStore(mark) {
      demand(mark.size === 1, mark, `a store of ${mark.size} bytes by the next access`);
      byteStore = mark;
    },

    quietAccess(mark, index) {
      if (mark.access === 'vmmcall' || mark.access === 'skinit') writer.note(mark.access);
      else beginQuiet(mark.va, mark.access, mark.ac !== 0, index);
    },
    tableNpt(mark) {
      tables.protects(mark.gpa, mark.second);
      scene.relabel(`l2pt npte=${mark.second.toString(16)}`);
    },
    tableEpt(mark) {
      tables.protects(mark.gpa, mark.second);
      scene.relabel(`l2pt epte=${mark.second.toString(16)}`);
      armed = mark.line;
    },
    tableEptPreset(mark, index) {
      tables.protects(mark.gpa, mark.second);
      scene.relabel(`l2pt-AD-preset epte=${mark.second.toString(16)}`);
      // To make this mark the guest has read the entry, which leaves its traces in EPT. The entry is set already.
      implied.announce(AccessType.READ, tables.protectedEntryAddress);
      implied.write();
      armed = mark.line;
      beginArmed(index);
    },
    vmentry(mark, index) {
      tested.finishQuiet(mark.line);
      scene.leaveByCall();
      if (scene.entryRefused(index)) return;
      scene.vmx?.enter(mark);
      beginArmed(index);
    },
    quietNpt: finishQuiet,
    quietEpt: finishQuiet,
    quietNptPreset: finishQuiet,
    quietEptPreset: finishQuiet,

    secondNpt: second,
    secondEpt: second,
    upperEntry(mark) {
      demand(mark.level >= 1 && mark.level <= 5, mark, `an entry of level ${mark.level}`);
      tables.seeUpper(mark.address, mark.level, mark.entry);
    },
    accessedDirty(mark, index) {
      const access = neighbouringAccess(scene, index, mark.when === 'before' ? 1 : -1);
      if (access === undefined) return;
      tables.seeAllLevels(access.entry, access.entryAddress, [mark.l1, mark.l2, mark.l3, mark.l4], mark.table);
    },
    translated(mark, index) {
      if (!scene.announcesStores) tables.learn(scene.nextDump(index), mark.gva, undefined);
      const valid = mark.valid !== 0;
      const flags = ACCESS_SOFTWARE | (AccessType.READ << ACCESS_TYPE_SHIFT);
      writer.access(StepKind.ACCESS, flags, mark.gva, Provenance.MARK, valid ? mark.gpa : undefined);
      // How a failed translation failed is not told.
      if (!valid) writer.observe(Obs.FAULTED, 0n, 0n);
    },
  } satisfies Partial<Handlers>;
}

/** The R line of a T line. */
function resultOf(scene: Scene, mark: MarkOf<'access'>, index: number): AccessResult | undefined {
  for (let at = index + 1; at < scene.marks.length; at++) {
    const found = scene.marks[at]!;
    if (found.kind === 'completed' && found.n === mark.n) return { vector: undefined, errorCode: 0n, cr2: 0n };
    if (found.kind === 'excepted' && found.n === mark.n) return found;
    if (found.kind === 'access') break;
  }
  scene.count('access without a result');
  return undefined;
}

/** The Q line that tells the result of an access to memory behind a protected table. */
function quietResult(scene: Scene, index: number): QuietResult | undefined {
  for (let at = index + 1; at < scene.marks.length; at++) {
    const found = scene.marks[at]!;
    switch (found.kind) {
      case 'quietNpt':
      case 'quietEpt':
      case 'quietNptPreset':
      case 'quietEptPreset':
        return found;
      case 'tableNpt':
      case 'tableEpt':
      case 'access':
        return undefined;
    }
  }
  return undefined;
}

function asResult(found: QuietResult): AccessResult {
  return {
    vector: found.vector === ReportedVector.COMPLETED ? undefined : found.vector,
    errorCode: 'errorCode' in found ? found.errorCode : 0n,
    cr2: 'cr2' in found ? found.cr2 : 0n,
  };
}

/** The next access under test in the direction of `step`. */
function neighbouringAccess(scene: Scene, index: number, step: 1 | -1): MarkOf<'access'> | undefined {
  for (let at = index + step; at >= 0 && at < scene.marks.length; at += step) {
    const mark = scene.marks[at]!;
    if (mark.kind === 'access') return mark;
  }
  return undefined;
}
