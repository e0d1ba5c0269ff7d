/** What becomes of events and marks, on traces made by hand. */

import { describe, expect, it } from 'vitest';
import {
  FAULT_DURING_EVENT,
  SOFTWARE_OPERAND,
  SOFTWARE_QUIET,
  STORE_EMULATED,
  STORE_SIZE_SHIFT,
} from '../../../src/formats/step.ts';
import type { TraceEventFields } from '../../../src/import/ftrace/event.ts';
import { element, emulate, entry, exit, fault, mark, marked, recording, told, trace, walk, zap } from './events.ts';

const flags = (bits: number): string => (bits >>> 7).toString(16);
const PAGING = ['C cr4 20', 'C cr3 200000', 'C cr0 80010011'];
/** A PAE guest with shadow paging that has turned paging on, with one register exit each. */
const paging = [
  mark('VMM start blob=/bin/g32.bin bytes=4096 mode=3'),
  entry(),
  ...PAGING.flatMap((text) => [
    ...marked(text),
    exit(`write_${text.split(' ')[1]}`, 0x3000n),
    emulate(0x3000n),
    entry(0x3003n),
  ]),
];
const guest = recording(PAGING);

async function steps(...events: TraceEventFields[]): Promise<readonly string[]> {
  const { steps: all } = await told(trace(...paging, ...events), guest);
  return all.slice(all.findLastIndex((step) => step.startsWith('register-write')) + 1);
}

describe('a fault', () => {
  it('has the walk of its own handler among its rows, and the walks of the emulator as steps', async () => {
    const all = await steps(
      exit('PF excp', 0x2000n),
      fault(0x5000n, 3n),
      walk(0x5000n, 3),
      walk(0x2000n, 0x10),
      emulate(),
      walk(0x5000n, 2),
      entry(0x2002n),
    );
    expect(all).toEqual([
      'fault-exit 0 5000 3: page-fault pagetable-walk',
      'software-walk 0 2000 10: pagetable-walk',
      `software-walk ${flags(SOFTWARE_OPERAND)} 5000 2: pagetable-walk`,
    ]);
  });

  it('says when an event was being delivered', async () => {
    const all = await steps(exit('PF excp', 0x2000n, { intrInfo: 0x8000_0b0e | 0 }), fault(0x5000n, 0n), entry());
    expect(all).toEqual([`fault-exit ${flags(FAULT_DURING_EVENT)} 5000 0: page-fault`]);
  });

  it('may be the first of a trace that begins within an exit', async () => {
    const { steps: all } = await told(trace(fault(0x5000n, 0n), entry()), undefined);
    expect(all.filter((step) => step.startsWith('fault-exit'))).toEqual(['fault-exit 0 5000 0: page-fault']);
  });

  it('is followed by an entry that has the roots', async () => {
    const all = await steps(
      ...marked('C cr3 300000'),
      exit('write_cr3', 0x3000n),
      emulate(0x3000n),
      { ...zap(3n), name: 'kvm_mmu_get_page', created: true } as never,
      entry(0x3003n),
    );
    expect(all).toEqual(['vm-entry 0 0 0: get-page']);
  });
});

describe('a walk that fails', () => {
  const failed = { name: 'kvm_mmu_walker_error', pferr: 2 } as const;

  it('is quiet if the guest learns nothing of it', async () => {
    const all = await steps(exit('UD excp', 0x2000n), walk(0x2000n, 0), failed, entry(0x2000n));
    expect(all).toEqual([`software-walk ${flags(SOFTWARE_QUIET)} 2000 0: pagetable-walk walker-error`]);
  });

  it('has the #PF that is injected for it among its rows; another exception is not ours', async () => {
    const injected = { name: 'kvm_inj_exception', vector: 14, errorCode: 2, reinjected: false } as const;
    const all = await steps(
      exit('UD excp', 0x2000n),
      emulate(),
      walk(0x5000n, 2),
      failed,
      injected,
      { ...injected, vector: 6, errorCode: undefined },
      entry(0x2000n),
    );
    expect(all).toEqual([`software-walk ${flags(SOFTWARE_OPERAND)} 5000 2: pagetable-walk walker-error inj-exception`]);
  });
});

describe('an announced store', () => {
  const eight = flags(8 << STORE_SIZE_SHIFT);
  const four = flags(4 << STORE_SIZE_SHIFT);
  const emulated = flags((4 << STORE_SIZE_SHIFT) | STORE_EMULATED);

  it('happens before the next exit that has nothing to do with it', async () => {
    const all = await steps(...marked('E a=201000 v=202007 s=8'), exit('io', 0x1001n), entry());
    expect(all).toEqual([`store ${eight} 201000 202007`]);
  });

  it('waits while faults on its page are mended', async () => {
    const all = await steps(
      ...marked('E a=201000 v=202007 s=8'),
      exit('PF excp', 0x2000n),
      fault(0x201000n, 2n),
      walk(0x201000n, 2),
      entry(0x2000n),
      exit('io', 0x1001n),
      entry(),
    );
    expect(all).toEqual([
      'fault-exit 0 201000 2: page-fault pagetable-walk',
      `store ${four} 201000 0`,
      `store ${four} 201004 0`,
      `store ${four} 201000 202007`,
    ]);
  });

  it('is emulated word by word where the guest has registers of four bytes', async () => {
    const once = (address: bigint) => [
      exit('PF excp', 0x2000n),
      fault(address, 3n),
      walk(address, 3),
      walk(0x2000n, 0x10),
      emulate(),
      walk(address, 2),
      zap(0x201n),
      entry(0x2002n),
    ];
    const all = await steps(
      ...marked('E a=201000 v=8000000000202007 s=8'),
      ...once(0x201000n),
      ...once(0x201004n),
      exit('io', 0x1001n),
      entry(),
    );
    expect(all.filter((step) => step.startsWith('store'))).toEqual([
      `store ${emulated} 201000 0: prepare-zap-page`,
      `store ${emulated} 201004 80000000: prepare-zap-page`,
      `store ${four} 201000 202007`,
    ]);
  });

  it('is told in parts where a fault shows how far a run of them has come', async () => {
    const all = await steps(
      ...marked('B a=201000 n=16 v=3 step=1000'),
      exit('PF excp', 0x2000n),
      fault(0x201040n, 2n),
      entry(0x2000n),
      exit('io', 0x1001n),
      entry(),
    );
    expect(all.map((step) => step.split(' ').slice(0, 3).join(' '))).toEqual([
      'entry-fill',
      'fault-exit 0 201040',
      `store ${four} 201040`,
      `store ${four} 201044`,
      `store ${four} 201040`,
      'entry-fill',
    ]);
  });
});

describe('memory', () => {
  it('is stated ahead of a walk that reads what nobody told', async () => {
    const { steps: all, header } = await told(
      trace(
        ...paging,
        exit('UD excp', 0x2000n),
        walk(0x40001000n, 0),
        element(3, 0n),
        entry(),
        exit('UD excp', 0x2000n),
        walk(0x1000n, 0),
        element(3, 0x201001n),
        element(2, 0x202007n),
        element(1, 0x5003n),
        entry(),
      ),
      guest,
    );
    expect(
      all.filter((step) => /^(store|register-set)/.test(step)).map((step) => step.split(' ').slice(2).join(' ')),
    ).toEqual(['0 201001', '201000 202007', '202008 5003']);
    expect(header.omissions).toContainEqual({ what: 'entry first known when read', count: 2 });
    expect(header.omissions).toContainEqual({ what: 'PDPTE register learned', count: 1 });
  });
});

describe('the receipt', () => {
  it('accounts for every event, and names what it does not know', async () => {
    const events = trace(
      ...paging,
      { name: 'other', event: 'kvm_brand_new', text: '' },
      { name: 'other', event: 'kvm_nested_vmenter', text: '' },
      exit('io', 0x1001n),
      entry(),
    );
    const { result, header } = await told(events, guest);
    expect(result.receipt.total).toBe(events.length);
    expect(header.omissions).toEqual([
      { what: 'kvm_brand_new: unknown event', count: 1 },
      { what: 'kvm_nested_vmenter: nested event', count: 1 },
    ]);
  });

  it("counts another task's events, which may be another machine's", async () => {
    const events = trace(...paging, exit('io', 0x1001n), entry());
    const other = { ...zap(5n), position: 99, time: 99, task: 'other', pid: 8, cpu: 1 } as never;
    const { result, header } = await told([...events, other], guest);
    expect(result.receipt.total).toBe(events.length + 1);
    expect(header.omissions).toEqual([{ what: 'kvm_mmu_prepare_zap_page: by another task', count: 1 }]);
  });
});

describe("a stranger's trace", () => {
  it('needs no side files, and says what is not known', async () => {
    const { steps: all, header } = await told(
      trace(
        entry(),
        exit('PF excp', 0x2000n),
        fault(0x40000000n, 0n),
        walk(0x40000000n, 0),
        element(4, 0x201027n),
        element(3, 0x202027n),
        entry(0x2000n),
      ),
      undefined,
    );
    expect(all.at(-1)).toBe('fault-exit 0 40000000 0: page-fault pagetable-walk paging-element paging-element');
    expect(all.filter((step) => step.startsWith('store'))).toHaveLength(2);
    expect(header.omissions.map(({ what }) => what)).toContain('CR3 not known: a root table made up');
    expect(header.unknown).toContain('memory');
    expect(header.hypervisor?.mmu).toMatchObject({ vendor: 'amd', tdp: false });
  });
});
