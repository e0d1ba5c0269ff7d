/** What a trace's header says, as a few lines for people. All of it comes from the file and is escaped. */

import type { KvmConfig } from '../formats/kvm-config.ts';
import { escapeControls } from '../report/escape.ts';
import type { TraceHeader } from '../trace/header.ts';

/** `KVM 6.1 on amd, NPT, TDP MMU`: what decides how its tables look. */
function mmuText({ profile, vendor, tdp, tdpMmu }: KvmConfig): string {
  const paging = !tdp ? 'shadow paging' : vendor === 'amd' ? 'NPT' : 'EPT';
  return `KVM ${profile} on ${vendor}, ${paging}${tdp && tdpMmu ? ', TDP MMU' : ''}`;
}

/** The heading of a segment: where it is, its title; then who recorded what kind of machine. */
export function headerLines(path: string, segment: number, header: TraceHeader): string[] {
  const { processor, hypervisor } = header;
  const where = escapeControls(path === '-' ? '<stdin>' : path) + (segment === 0 ? '' : `, segment ${segment}`);
  const machine = [
    processor.vendor === 'unknown'
      ? 'processor of unknown vendor'
      : `${processor.vendor} ${escapeControls(processor.model)}`.trim(),
    processor.maxphyaddr === 0 ? '' : `MAXPHYADDR ${processor.maxphyaddr}`,
    `A/D ${header.adPolicy}`,
    hypervisor === undefined ? '' : `under ${escapeControls(`${hypervisor.name} ${hypervisor.version}`.trim())}`,
    hypervisor?.mmu === undefined ? '' : mmuText(hypervisor.mmu),
    header.independent ? 'independent accesses, no history' : '',
  ].filter((part) => part !== '');
  const lines = [`${where}: ${escapeControls(header.title) || 'untitled'}`, `  ${machine.join(', ')}`];
  if (header.recorder !== '') lines.push(`  recorder: ${escapeControls(header.recorder)}`);
  const faults = header.knownFaults.length;
  if (faults > 0) {
    const names = faults <= 3 ? header.knownFaults.map(escapeControls).join(', ') : `${faults}, named in --json`;
    lines.push(`  known faults of the recorder: ${names}`);
  }
  const { unknown = [] } = header;
  if (unknown.length > 0) lines.push(`  partial, not known: ${unknown.map(escapeControls).join(', ')}`);
  return lines;
}
