/** Watches the processor above an emulated KVM: what it is told to drop, what roots it is given, and each access it makes. */

import { hexText } from '../bits/word64.ts';
import type { Processor, RootState } from '../machine/kvm/processor.ts';
import type { Vcpu } from '../mmu/vcpu.ts';
import { cover } from './cover.ts';
import { tagText } from './explain-names.ts';
import type { Notes } from './explain-seen.ts';

/** What is told of every access that the processor makes, or is asked about. */
export type ProcessorListener = (
  processor: Processor,
  how: 'access' | 'gpa' | 'probe' | 'probe-gpa',
  op: number,
  lo: number,
  hi: number,
  outcome: number,
) => void;

/** Watches the processor of a vCPU; `listener` gives whoever is to be told of its accesses. */
export function watchProcessor(
  notes: Notes,
  processor: Processor,
  vcpu: Vcpu,
  listener: () => ProcessorListener | null,
): void {
  const { config } = notes.machine;
  cover(processor, 'flushAll', (call: () => void) => {
    notes.note('tlb', 'flush', 'drops every cached translation');
    call();
  });
  cover(processor, 'flushCurrent', (call: () => void) => {
    const ept = config.tdp && config.vendor === 'intel';
    const what = ept
      ? `what was translated through the root of ${notes.mmuName}`
      : `the translations of ${tagText(vcpu.tag, config.vendor)}`;
    notes.note('tlb', 'flush', `drops ${what}`);
    call();
  });
  cover(processor, 'flushGuest', (call: () => void) => {
    notes.note('tlb', 'flush', `drops the linear mappings of ${tagText(vcpu.tag, config.vendor)}`);
    call();
  });
  cover(processor, 'flushAddress', (call: () => void, lo: number, hi: number) => {
    notes.note('tlb', 'flush', `drops the address ${hexText(lo, hi)} of ${tagText(vcpu.tag, config.vendor)}`);
    call();
  });
  cover(processor, 'setRoot', (call: () => void, root: RootState | null) => {
    if (root !== null) {
      const ad = root.ad ? 'with A and D bits' : 'without A and D bits';
      notes.note('processor', 'setup', `is given a root of ${root.level} levels of ${notes.mmuName}, ${ad}`);
    }
    call();
  });
  const tell =
    (how: Parameters<ProcessorListener>[1]) =>
    (call: () => number, op: number, lo: number, hi: number): number => {
      const outcome = call();
      if (notes.isOn) listener()?.(processor, how, op, lo, hi, outcome);
      return outcome;
    };
  cover(processor, 'translate', tell('access'));
  cover(processor, 'translateGpa', tell('gpa'));
  cover(processor, 'probe', tell('probe'));
  cover(processor, 'probeGpa', tell('probe-gpa'));
}
