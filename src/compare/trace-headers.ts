/** In which way the headers of two traces say that these were recorded under other circumstances: told, no difference. */

import { KVM_EVENT_NAMES } from '../formats/kvm-event.ts';
import { OBS_NAMES } from '../formats/observation.ts';
import { eventsTold } from '../replay/events.ts';
import type { TraceHeader } from '../trace/header.ts';

export interface HeaderChange {
  readonly what: string;
  readonly a: string;
  readonly b: string;
}

/** By name, what is likely to make two recordings differ; titles, sources and writers are not among it. */
function circumstances({ processor, hypervisor, adPolicy, independent }: TraceHeader): Map<string, string> {
  const known = new Map<string, string>([
    ['vendor', processor.vendor],
    ['model', processor.model],
    ['MAXPHYADDR', String(processor.maxphyaddr)],
    ['A/D policy', adPolicy],
    ['independent', String(independent)],
    ['hypervisor', hypervisor === undefined ? 'none' : `${hypervisor.name} ${hypervisor.version}`.trim()],
  ]);
  for (const name of processor.features) known.set(`feature ${name}`, 'yes');
  for (const parameter of hypervisor?.parameters ?? []) {
    // Told by `eventsOfOne`.
    if (parameter.startsWith('events-not-recorded=')) continue;
    // `kvm_intel.ept=Y`, `kvm.tdp_mmu=N`; what has no value is there or is not.
    const at = parameter.search(/[= ]/);
    known.set(at < 0 ? parameter : parameter.slice(0, at), at < 0 ? 'yes' : parameter.slice(at + 1));
  }
  for (const [name, value] of Object.entries(hypervisor?.mmu ?? {})) known.set(`mmu ${name}`, String(value));
  return known;
}

export function headerChanges(a: TraceHeader, b: TraceHeader): HeaderChange[] {
  const [x, y] = [circumstances(a), circumstances(b)];
  return [...new Set([...x.keys(), ...y.keys()])].flatMap((what) => {
    const [before, after] = [x.get(what) ?? 'no', y.get(what) ?? 'no'];
    return before === after ? [] : [{ what, a: before, b: after }];
  });
}

/** Kinds of observation that only one of the recorders could see: of neither side compared. */
export function seenByOne(a: TraceHeader, b: TraceHeader): string[] {
  const only = a.observable ^ b.observable;
  return OBS_NAMES.filter((_, kind) => ((only >>> kind) & 1) !== 0);
}

/** Events of KVM that one of the recordings does not have at all, switched off or never met; they are compared. */
export function eventsOfOne(a: TraceHeader, b: TraceHeader): string[] {
  const only = eventsTold(a).events ^ eventsTold(b).events;
  return KVM_EVENT_NAMES.filter((_, event) => event > 0 && ((only >>> event) & 1) !== 0);
}
