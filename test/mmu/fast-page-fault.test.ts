/** The fast page fault: facts/kvm-6.1.md §5, facts/kvm-mmu.md §6.5. */

import { describe, expect, test } from 'vitest';
import { HostPage } from '../../src/formats/step.ts';
import { ShadowRig } from './shadow-rig.ts';

const NPT = { tdp: true, tdpMmu: false } as const;
const EPT_NO_AD = { ...NPT, vendor: 'intel', eptAd: false } as const;
const READ_PRESENT = 1;
const WRITE = 2;
const WRITE_PRESENT = 3;
const FETCH = 16;

/** Page 0x100 mapped; nothing else, because its neighbours are not there. */
function rigged(config: Partial<ShadowRig['config']> = NPT): ShadowRig {
  const rig = new ShadowRig({ config });
  rig.host.hostPages(0x10_0000, 0, 8, HostPage.ABSENT, 1);
  rig.host.hostPages(0x10_0000, 0, 1, HostPage.WRITABLE, 1);
  rig.fault(0x10_0000, WRITE);
  rig.take();
  rig.takeTold();
  return rig;
}

function fast(rig: ShadowRig): string[] {
  return rig.take().filter((text) => text.startsWith('fast'));
}

describe('eligible', () => {
  test.each([
    ['a write to what is not present', NPT, WRITE, false],
    ['a read of what is present', NPT, READ_PRESENT, false],
    ['a write to what is present', NPT, WRITE_PRESENT, true],
    ['a read of what is not present, without A/D bits', EPT_NO_AD, 0, true],
    ['a fetch of what is present', NPT, FETCH | 1, false],
  ])('%s', (_, config, code, isEligible) => {
    const rig = rigged(config);
    rig.fault(0x10_0000, code);
    expect(fast(rig)).toHaveLength(isEligible ? 1 : 0);
  });

  test('never under shadow paging', () => {
    const rig = new ShadowRig();
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, 0x67));
    rig.fault(0, WRITE);
    rig.fault(0, WRITE_PRESENT);
    expect(fast(rig)).toEqual([]);
  });

  test('not before a write-tracked frame has been ruled out', () => {
    const rig = rigged();
    rig.pages.slotState.track(0x100, 0);
    expect(rig.fault(0x10_0000, WRITE_PRESENT)).toBe('EMULATE');
    expect(rig.take()).toEqual([]);
  });
});

describe('ends', () => {
  test('spurious: the SPTE lets the access through', () => {
    const rig = rigged();
    expect(rig.fault(0x10_0000, WRITE_PRESENT)).toBe('SPURIOUS');
    expect(rig.take()).toEqual(['fast 100000 e67 e67 spurious']);
  });

  test('fixed: the dirty log had taken W; the frame is dirty again, nothing else is told', () => {
    const rig = rigged();
    rig.slot({ what: 'flags', dirtyLog: true });
    rig.vm.startDirtyLog(rig.host.slots(0)[0]!);
    rig.takeTold();
    expect(rig.fault(0x10_0000, WRITE_PRESENT)).toBe('FIXED');
    expect(rig.take()).toEqual(['fast 100000 e65 e67 fixed']);
    expect(rig.takeTold()).toEqual([]);
    expect(rig.host.slotTable.byId(0, 0)!.isDirty(0x100)).toBe(true);
    expect(rig.broken()).toEqual([]);
  });

  test('undecided: protected because it is shadowed', () => {
    const rig = rigged();
    rig.pages.writeProtect(0x100, 0, 1);
    // The slow path finds nothing that forbids.
    expect(rig.fault(0x10_0000, WRITE_PRESENT)).toBe('FIXED');
    expect(rig.take()).toEqual(['fast 100000 a65 a65 no', 'req l1 100', 'set l1 100 e67']);
  });

  test('undecided: read-only on the host', () => {
    const rig = new ShadowRig({ config: NPT });
    rig.host.hostPages(0x10_0000, 0, 8, HostPage.ABSENT, 1);
    rig.fault(0x10_0000, 0);
    expect(rig.take().at(-1)).toBe('set l1 100 825');
    rig.fault(0x10_0000, WRITE_PRESENT);
    expect(fast(rig)).toEqual(['fast 100000 825 825 no']);
  });

  test('undecided: nothing there any more, or a table only', () => {
    const rig = rigged();
    rig.vm.unmap(0, 0x100, 0x101);
    rig.fault(0x10_0000, WRITE_PRESENT);
    expect(fast(rig)).toEqual(['fast 100000 0 0 no']);
    rig.fault(0x4000_0000, WRITE_PRESENT);
    expect(fast(rig)).toEqual(['fast 40000000 0 0 no']);
  });

  test('undecided: a large page in a slot whose writes are logged must be mapped by small ones', () => {
    const rig = new ShadowRig({ config: NPT, hostLevel: 2 });
    rig.fault(0x20_0000, WRITE);
    expect(rig.take().at(-1)).toBe('set l2 200 ee7');
    rig.slot({ what: 'flags', dirtyLog: true });
    rig.vm.startDirtyLog(rig.host.slots(0)[0]!);
    rig.fault(0x20_0000, WRITE_PRESENT);
    const events = rig.take();
    expect(events.slice(0, 4)).toEqual(['fast 200000 ee5 ee5 no', 'req l1 200', 'get l1 200 direct', 'set l1 200 e67']);
    expect(rig.broken()).toEqual([]);
  });

  test('fixed: rights that were put aside to notice the access come back', () => {
    const rig = rigged(EPT_NO_AD);
    rig.vm.age(0, 0x100, 0x101);
    expect(rig.fault(0x10_0000, 0)).toBe('FIXED');
    expect(rig.take()).toEqual(['fast 100000 750000000000870 610000000000875 fixed']);
    expect(rig.fault(0x10_0000, WRITE_PRESENT)).toBe('FIXED');
    expect(rig.take()).toEqual(['fast 100000 610000000000875 610000000000877 fixed']);
    expect(rig.broken()).toEqual([]);
  });
});
