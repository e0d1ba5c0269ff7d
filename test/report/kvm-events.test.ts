import { describe, expect, test } from 'vitest';
import { fromBigInt } from '../../src/bits/word64.ts';
import { defaultKvmConfig } from '../../src/formats/kvm-config.ts';
import {
  INJ_HAS_ERROR,
  INJ_VECTOR_SHIFT,
  KVM_EVENT_COUNT,
  KVM_EVENT_NAMES,
  KVM_EVENT_SHIFT,
  KVM_MORE_ROWS,
  KvmEvent,
  MATCH_GPA,
  MATCH_WRITE,
  MMIO_TYPE_SHIFT,
  SET_SPTE_NO_U,
  SET_SPTE_R,
  SET_SPTE_U,
  SET_SPTE_X,
  SP_CREATED,
  SP_GENERATION_SHIFT,
  SP_UNSYNC,
  VMENTER_TDP,
} from '../../src/formats/kvm-event.ts';
import { OBS_LEVEL_SHIFT, Obs } from '../../src/formats/observation.ts';
import { type EventRow, kvmEventName, kvmEventText, moreRowsAt } from '../../src/report/kvm-events.ts';
import { rowText } from '../../src/report/rows.ts';

const MMU = defaultKvmConfig();

function row(op: number, address: bigint, value: bigint): EventRow {
  const [a, v] = [fromBigInt(address), fromBigInt(value)];
  return { op: op >>> 0, addressLo: a.lo, addressHi: a.hi, valueLo: v.lo, valueHi: v.hi };
}

/** `words`: address and value of the event's row, then of those behind it. */
function text(event: number, bits: number, ...words: bigint[]): string {
  const rows: EventRow[] = [];
  for (let i = 0; i < words.length || i === 0; i += 2) {
    const op = i === 0 ? Obs.KVM_EVENT | (event << KVM_EVENT_SHIFT) | bits : Obs.KVM_MORE;
    rows.push(row(op, words[i] ?? 0n, words[i + 1] ?? 0n));
  }
  return kvmEventText(rows, MMU);
}

const level = (n: number): number => n << OBS_LEVEL_SHIFT;

describe('events read as in the kernel’s own trace', () => {
  test('entries', () => {
    const rxu = SET_SPTE_R | SET_SPTE_X | SET_SPTE_U;
    expect(text(KvmEvent.SET_SPTE, level(1) | rxu, 0x100n, 0x29dce67n, 0xf3b4800n)).toBe(
      'set-spte gfn 100 spte 29dce67 (rwxu) level 1 at f3b4800',
    );
    expect(text(KvmEvent.SET_SPTE, level(1) | SET_SPTE_R | SET_SPTE_X, 0x305n, 0x29c0a21n, 0xf3ac028n)).toBe(
      'set-spte gfn 305 spte 29c0a21 (r-x-) level 1 at f3ac028',
    );
    const noUser = SET_SPTE_R | SET_SPTE_X | SET_SPTE_NO_U;
    expect(text(KvmEvent.SET_SPTE, level(2) | noUser, 0x200n, 0x6000000028f6b77n, 0xf3ac028n)).toBe(
      'set-spte gfn 200 spte 6000000028f6b77 (rwx) level 2 at f3ac028',
    );
    expect(text(KvmEvent.SPTE_REQUESTED, level(1), 0x100n, 0x29dcn)).toBe('spte-requested gfn 100 pfn 29dc level 1');
    expect(text(KvmEvent.TDP_SPTE_CHANGED, level(4), 0n, 0x10353907n, 0n, 0n)).toBe(
      'tdp-spte-changed as id 0 gfn 0 level 4 old_spte 10353907 new_spte 0',
    );
    expect(text(KvmEvent.SPLIT_HUGE_PAGE, level(2), 0x4200n, 0x600000010400bf7n, 0n, -12n)).toBe(
      'split-huge-page gfn 4200 spte 600000010400bf7 level 2 errno -12',
    );
  });

  test('shadow pages, with the rest of their role', () => {
    expect(text(KvmEvent.GET_PAGE, SP_CREATED, 0xe0000n, 0x1781n)).toBe(
      'get-page sp gen 0 gfn e0000 l1 8-byte q0 direct wux nxe ad root 0 sync new',
    );
    const unsync = SP_UNSYNC | (200 << SP_GENERATION_SHIFT);
    expect(text(KvmEvent.UNSYNC_PAGE, unsync, 0x20bn, (2n << 32n) | 0x10701n)).toBe(
      'unsync-page sp gen 200 gfn 20b l1 8-byte q0 wux !nxe !ad root 2 unsync',
    );
    expect(text(KvmEvent.GET_PAGE, 0, 0x20bn, 0x2701n)).toBe(
      'get-page sp gen 0 gfn 20b l1 8-byte q0 wux !nxe ad wp root 0 sync existing',
    );
    const head = row(Obs.KVM_EVENT | (KvmEvent.SYNC_PAGE << KVM_EVENT_SHIFT), 0x20bn, 0x2701n);
    expect(kvmEventText([head])).toBe('sync-page sp gen 0 gfn 20b role 2701 root 0 sync');
  });

  test('walks', () => {
    expect(text(KvmEvent.PAGETABLE_WALK, 0, 0x40005040n, 6n)).toBe('pagetable-walk addr 40005040 pferr 6 W|U');
    expect(text(KvmEvent.PAGETABLE_WALK, 0, 0x40005040n, 0n)).toBe('pagetable-walk addr 40005040 pferr 0');
    expect(text(KvmEvent.PAGING_ELEMENT, level(1), 0n, 0x305025n)).toBe('paging-element pte 305025 level 1');
    expect(text(KvmEvent.SET_ACCESSED_BIT, 0, 0x609028n)).toBe('set-accessed-bit gpa 609028');
    expect(text(KvmEvent.WALKER_ERROR, 0, 0n, 7n)).toBe('walker-error pferr 7 P|W|U');
  });

  test('faults and exceptions', () => {
    expect(text(KvmEvent.PAGE_FAULT, 0, 0x104de3n, 0x184n)).toBe('page-fault address 104de3 error_code 184');
    expect(
      text(KvmEvent.FAST_PAGE_FAULT, 0, 0x20b868n, 0x200000002976b75n, 0xffff8880103b8058n, 0x200000002976b75n, 3n),
    ).toBe(
      'fast-page-fault gva 20b868 error_code P|W sptep ffff8880103b8058 old 200000002976b75 new 200000002976b75 spurious 0 fixed 0',
    );
    const injected = (14 << INJ_VECTOR_SHIFT) | INJ_HAS_ERROR;
    expect(text(KvmEvent.INJ_EXCEPTION, injected, 0n, 0xdn)).toBe('inj-exception #PF (d)');
    expect(text(KvmEvent.INJ_EXCEPTION, 6 << INJ_VECTOR_SHIFT)).toBe('inj-exception #UD');
  });

  test('MMIO', () => {
    expect(text(KvmEvent.MARK_MMIO_SPTE, 0, 0xe0000n, 0xffff888010346000n, 6n, 8n)).toBe(
      'mark-mmio-spte sptep ffff888010346000 gfn e0000 access 6 gen 8',
    );
    expect(text(KvmEvent.HANDLE_MMIO_PAGE_FAULT, 0, 0xe0000018n, 0xe0000n, 0n)).toBe(
      'handle-mmio-page-fault addr e0000018 gfn e0000 access 0',
    );
    expect(text(KvmEvent.CHECK_MMIO_SPTE, 0, 0n, 0xf80e0000046n, 8n, 8n)).toBe(
      'check-mmio-spte spte f80e0000046 kvm_gen 8 spte-gen 8 valid 1',
    );
    expect(text(KvmEvent.MMIO, 2 << MMIO_TYPE_SHIFT, 0xe0000010n)).toBe('mmio write gpa e0000010');
    expect(text(KvmEvent.MATCH_MMIO, MATCH_WRITE | MATCH_GPA, 0x40005010n, 0xe0000010n)).toBe(
      'match-mmio gva 40005010 gpa e0000010 Write GPA',
    );
  });

  test('the host', () => {
    expect(text(KvmEvent.ZAP_ALL_FAST, 0, 0n, 0x2b_0000_0000n)).toBe('zap-all-fast kvm-mmu-valid-gen 0 used_pages 2b');
    expect(text(KvmEvent.UNMAP_HVA_RANGE, 0, 0x7fd390d0f000n, 0x7fd390d10000n)).toBe(
      'unmap-hva-range 7fd390d0f000 -- 7fd390d10000',
    );
  });
});

describe('a guest that is a hypervisor', () => {
  test('is entered and left', () => {
    expect(text(KvmEvent.NESTED_VMENTER, VMENTER_TDP, 0n, 0x109301en)).toBe(
      'nested-vmenter nested_tdp 1 guest_pgd 109301e',
    );
    expect(text(KvmEvent.NESTED_VMEXIT, 0, 0x600000n, 0x200000006n, 0x400n)).toBe(
      'nested-vmexit reason 400 (nested page fault) info1 200000006 info2 600000',
    );
    expect(text(KvmEvent.NESTED_VMEXIT_INJECT, 0, 0x40001040n, 7n, 0x4en)).toBe(
      'nested-vmexit-inject code 4e (#PF) exit_info1 7 exit_info2 40001040 exit_int_info 0 exit_int_info_err 0',
    );
    expect(text(KvmEvent.NESTED_VMEXIT, 0, 0n, 0n, 0x60n)).toBe('nested-vmexit reason 60 info1 0 info2 0');
    expect(text(KvmEvent.NESTED_INTERCEPTS, 0, 0n, 0x4000n)).toBe('nested-intercepts exceptions 4000');
    expect(text(KvmEvent.INVLPGA, 0, 0x5000n, 1n)).toBe('invlpga address 5000 asid 1');
  });

  test('its exits have the names of its vendor', () => {
    const rows = [
      row(Obs.KVM_EVENT | (KvmEvent.NESTED_VMEXIT << KVM_EVENT_SHIFT), 0n, 0x181n),
      row(Obs.KVM_MORE, 48n, 0n),
    ];
    expect(kvmEventText(rows, defaultKvmConfig({ vendor: 'intel' }))).toBe(
      'nested-vmexit reason 30 (EPT violation) info1 181 info2 0',
    );
    expect(kvmEventText(rows)).toBe('nested-vmexit reason 30 info1 181 info2 0');
  });
});

test('every event shows each of its rows', () => {
  for (let event = 1; event < KVM_EVENT_COUNT; event++) {
    const words = Array.from({ length: 2 * (1 + KVM_MORE_ROWS[event]!) }, () => 0xabcdn);
    const shown = text(event, 0, ...words);
    expect(shown).toMatch(new RegExp(`^${KVM_EVENT_NAMES[event]} `));
    expect(shown).not.toContain('undefined');
    expect(shown).not.toContain('?');
  }
});

test('what is not there is not made up', () => {
  expect(text(KvmEvent.SET_SPTE, level(1), 0x100n, 0x1n)).toBe('set-spte gfn 100 spte 1 (----) level 1 at ?');
  expect(text(KvmEvent.NONE, 0, 1n, 2n)).toBe('none address 1 value 2');
  expect(kvmEventName(Obs.KVM_EVENT | (KvmEvent.MMIO << KVM_EVENT_SHIFT))).toBe('mmio');
});

test('one row alone is readable too', () => {
  const op = Obs.KVM_EVENT | (KvmEvent.SPTE_REQUESTED << KVM_EVENT_SHIFT) | level(1);
  expect(rowText(op, 0x100, 0, 0x29dc, 0)).toBe('spte-requested gfn 100 pfn 29dc level 1');
  expect(rowText(Obs.KVM_MORE, 1, 0, 2, 0)).toBe('further fields 0x1 0x2');
});

test('an event takes the rows that follow, as many as it has', () => {
  const fast = Obs.KVM_EVENT | (KvmEvent.FAST_PAGE_FAULT << KVM_EVENT_SHIFT);
  const ops = Uint32Array.of(fast, Obs.KVM_MORE, Obs.KVM_MORE, Obs.KVM_MORE, fast, Obs.KVM_MORE);
  expect([moreRowsAt(ops, 0, 6), moreRowsAt(ops, 0, 2), moreRowsAt(ops, 4, 6)]).toEqual([2, 1, 1]);
});
