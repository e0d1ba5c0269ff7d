import { describe, expect, it } from 'vitest';
import { parseLineHead } from '../../../src/import/ftrace/line-head.ts';

const CASES: readonly (readonly [dialect: string, line: string, head: object])[] = [
  [
    'the kernel, with flags',
    '             vmm-147     [000] d..1.    21.632575: kvm_entry: vcpu 0, rip 0x1',
    { task: 'vmm', pid: 147, cpu: 0, time: 21632575000, event: 'kvm_entry', text: 'vcpu 0, rip 0x1', perf: false },
  ],
  [
    'the kernel, without flags',
    '             vmm-147   [012]    21.632575: kvm_fpu: load',
    { task: 'vmm', pid: 147, cpu: 12, time: 21632575000, event: 'kvm_fpu', text: 'load', perf: false },
  ],
  [
    'the kernel, with thread groups',
    '       CPU 0/KVM-1234    ( 1200) [003] .....     9.000001: kvm_fpu: load',
    { task: 'CPU 0/KVM', pid: 1234, cpu: 3, time: 9000001000, event: 'kvm_fpu' },
  ],
  [
    'a thread group that is not known',
    '          <idle>-0       (-------) [001] d.h1.    10.0000019: x: y',
    { task: '<idle>', pid: 0, cpu: 1, time: 10000001900, event: 'x' },
  ],
  [
    'a task whose name has everything in it',
    '  a-1 [b]: (c)-77      [000] .....     1.500000: x: y',
    { task: 'a-1 [b]: (c)', pid: 77, cpu: 0, time: 1500000000, event: 'x' },
  ],
  [
    'trace-cmd report',
    '             vmm-147   [000]    21.719922123: kvm_entry:            vcpu 0, rip 0x100000',
    { pid: 147, time: 21719922123, event: 'kvm_entry', text: '           vcpu 0, rip 0x100000', perf: false },
  ],
  [
    'perf script',
    '       CPU 0/KVM  4242 [007]  5012.000000123:             kvm:kvm_exit: vcpu 0 reason npf',
    { task: 'CPU 0/KVM', pid: 4242, cpu: 7, time: 5012000000123, event: 'kvm_exit', perf: true },
  ],
  [
    'perf script with process and thread',
    'vmm   100/101   [001]     1.000002:   kvmmmu:kvm_mmu_paging_element: pte 7 level 1',
    { task: 'vmm', pid: 101, cpu: 1, event: 'kvm_mmu_paging_element', text: 'pte 7 level 1', perf: true },
  ],
  ['a clock that counts', '  vmm-1  [000] .....  123456: x: y', { time: 123456, event: 'x', text: 'y' }],
  ['an event without a name', '  vmm-1  [000] .....  1.000000: <stack trace>', { event: '', text: '<stack trace>' }],
  ['an event without text', '  vmm-1  [000] .....  1.000000: x:', { event: 'x', text: '' }],
];

describe('the head of a line', () => {
  it.each(CASES)('%s', (_dialect, line, head) => {
    expect(parseLineHead(line)).toMatchObject(head);
  });

  it.each([
    '',
    'kvm_entry: vcpu 0',
    'vmm-147 [000] d..1.',
    'vmm-147 [000] 21.6 kvm_entry: x',
    'vmm [000] 21.6: kvm_entry: x',
    '-1 [000] 21.6: kvm_entry: x',
    'vmm-147 [0a0] 21.6: x: y',
    'vmm-147 [0000000000] 21.6: x: y',
    '[[[[[[[[[',
  ])('no head: %s', (line) => {
    expect(parseLineHead(line)).toBeUndefined();
  });
});
