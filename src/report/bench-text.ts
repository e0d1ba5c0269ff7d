/** The figures of `rewalk bench` as text. */

import { basename } from 'node:path';
import type { KvmFigures } from '../bench/kvm.ts';
import type { TraceFigures, WalkFigures } from '../bench/measure.ts';
import { escapeControls } from './escape.ts';
import { countText, tableLines } from './table.ts';

function millions(rate: number): string {
  return `${(rate / 1e6).toFixed(rate < 1e7 ? 2 : 1)} M/s`;
}

function megabytes(bytes: number): string {
  return `${countText(Math.round(bytes / 1e6))} MB`;
}

export function benchLines(walks: WalkFigures, kvm: readonly KvmFigures[], trace: TraceFigures | undefined): string[] {
  const rows: string[][] = [['what', 'rate', 'of the same run', 'peak memory']];
  const ratio = walks.ratio === undefined ? '' : `${walks.ratio.toFixed(2)} of native`;
  rows.push(['2-D walks, no TLB', millions(walks.perSecond), ratio, megabytes(walks.peakMemory)]);
  if (walks.native !== undefined) rows.push(['2-D walks, native C', millions(walks.native)]);
  for (const { way, ...figures } of kvm) {
    const relative = `${(figures.walks / walks.perSecond).toFixed(2)} x 2-D walks`;
    rows.push([`KVM, ${way}: walks`, millions(figures.walks), relative, megabytes(figures.peakMemory)]);
    rows.push(['  faults that build tables', millions(figures.faults)]);
    rows.push(['  edits: store, INVLPG, access', millions(figures.edits)]);
  }
  if (trace !== undefined) {
    const name = escapeControls(basename(trace.trace));
    const memory = megabytes(trace.peakMemory);
    const share = `${(100 * trace.decodeShare).toFixed(1)} % of replay time`;
    rows.push([
      `replay of ${name}`,
      millions(trace.replay),
      `${(trace.replay / walks.perSecond).toFixed(1)} x 2-D walks`,
      memory,
    ]);
    rows.push(['  decoding, uncompressed', millions(trace.decode), share]);
    rows.push(['  decoding, as stored', millions(trace.decodeAsStored)]);
  }
  return tableLines(rows, ['left', 'right', 'left', 'right']);
}
