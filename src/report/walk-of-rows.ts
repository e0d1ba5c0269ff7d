/**
 * The walks that observation rows tell of, for the picture of a walk: as much of `ExplainedWalk` as rows hold, without the
 * rules, which are `rewalk explain`'s business.
 */

import { hexText } from '../bits/word64.ts';
import { entryName } from '../formats/decode/page-table-entry.ts';
import { DIM_NAMES, Dim, isFault, OBS_KIND_MASK, OBS_NESTED_OF_TABLE, Obs } from '../formats/observation.ts';
import type { ContextName, ExplainedWalk, WalkNode } from '../replay/explanation.ts';
import type { Row } from '../replay/result.ts';
import { observationDim, observationLevel, type RowContext, rowEntryText, rowText } from './rows.ts';

type Building = { -readonly [K in keyof WalkNode]: WalkNode[K] extends readonly WalkNode[] ? Building[] : WalkNode[K] };

export interface WalksContext {
  readonly row: RowContext;
  /** What was translated, and for what. */
  readonly address: string;
  readonly access: string;
  /** `4-level under EPT`. */
  readonly mode: string;
  /** Whose walk: of the side that the rows are of. */
  readonly title: string;
}

class Builder {
  readonly walks: ExplainedWalk[] = [];
  private nodes: Building[] = [];
  private inner: Building[] = [];
  private gpa = '';
  /** The second stage is asked for an entry of a table, not for the final address. */
  private ofTable = true;
  private readonly context: WalksContext;

  constructor(context: WalksContext) {
    this.context = context;
  }

  row(row: Row): void {
    const { op, addressLo, addressHi } = row;
    const dim = observationDim(op);
    switch (op & OBS_KIND_MASK) {
      case Obs.NESTED_WALK:
        this.flushInner();
        this.gpa = hexText(addressLo, addressHi);
        this.ofTable = (op & OBS_NESTED_OF_TABLE) !== 0;
        return;
      case Obs.ELEMENT:
        if (dim === Dim.SPP) return;
        if (dim === Dim.GUEST) this.outer(this.node(row, 'entry'));
        else this.second(this.node(row, 'entry'));
        return;
      case Obs.PDPTE:
        this.outer({ ...this.node(row, 'register'), name: 'PDPTE', level: 3, address: '' });
        return;
      case Obs.ENTRY_WRITE:
        if (dim === Dim.SPP) return;
        if (dim === Dim.GUEST || this.inner.length === 0) this.nodes.push(this.node(row, 'write'));
        else this.inner.push(this.node(row, 'write'));
        return;
      case Obs.TRANSLATED:
        this.translated(row);
        return;
      default:
        if (isFault(op)) this.fault(row);
    }
  }

  /** What is left without an outcome: the rows were cut, or no outcome was seen. */
  end(): readonly ExplainedWalk[] {
    this.flushInner();
    if (this.nodes.some(({ kind }) => kind === 'entry')) this.finish('translated', 'how it ended was not seen');
    return this.walks;
  }

  private node({ op, addressLo, addressHi, valueLo, valueHi }: Row, kind: WalkNode['kind']): Building {
    const dim = observationDim(op);
    const level = observationLevel(op);
    const whose = dim === Dim.GUEST ? '' : `${(DIM_NAMES[dim] ?? '').toUpperCase()} `;
    return {
      kind,
      context: contextOf(dim),
      name: `${whose}${entryName(level)}`,
      level,
      address: hexText(addressLo, addressHi),
      gpa: '',
      value: hexText(valueLo, valueHi),
      decoded: rowEntryText(op, valueLo, valueHi, this.context.row),
      rights: '',
      checks: [],
      inner: [],
    };
  }

  /** An entry of the guest's tables; at a higher level than the one before a walk begins anew. */
  private outer(node: Building): void {
    const last = this.nodes.findLast(({ kind }) => kind === 'entry' || kind === 'register');
    if (last !== undefined && node.level >= last.level) {
      const { inner } = this;
      this.inner = [];
      this.finish('fault', 'begun anew');
      this.inner = inner;
    }
    this.nodes.push({ ...node, gpa: this.gpa, inner: this.inner });
    this.inner = [];
    this.gpa = '';
  }

  private second(node: Building): void {
    const last = this.inner.findLast(({ kind }) => kind === 'entry');
    if (last !== undefined && node.level >= last.level) this.flushInner();
    this.inner.push(node);
  }

  /** A second-stage translation that no entry of the guest's came after: it is the final address's, or ended the walk. */
  private flushInner(): void {
    if (this.inner.length === 0) return;
    const isTable = this.ofTable && this.gpa !== '';
    this.nodes.push({
      kind: 'address',
      context: 'processor',
      name: isTable ? 'table entry' : 'final address',
      level: 0,
      address: this.gpa,
      gpa: this.gpa,
      value: '',
      decoded: '',
      rights: '',
      checks: [],
      inner: this.inner,
    });
    this.inner = [];
    this.gpa = '';
  }

  private translated(row: Row): void {
    this.flushInner();
    const { op, addressLo, addressHi, valueLo, valueHi } = row;
    const result = rowText(op, addressLo, addressHi, valueLo, valueHi, this.context.row);
    if (this.nodes.length > 0) this.finish('translated', result);
  }

  private fault(row: Row): void {
    const { op, addressLo, addressHi, valueLo, valueHi } = row;
    const result = rowText(op, addressLo, addressHi, valueLo, valueHi, this.context.row);
    const kind = op & OBS_KIND_MASK;
    const second = kind === Obs.EPT_VIOLATION || kind === Obs.EPT_MISCONFIG || kind === Obs.NPF;
    const within = second && this.inner.length > 0;
    this.flushInner();
    const last = this.nodes.findLast((node) => node.kind !== 'write');
    const stopped = within ? last?.inner.findLast((node) => node.kind === 'entry') : last;
    if (stopped !== undefined) stopped.stopped = result;
    if (this.nodes.length > 0) this.finish('fault', result);
  }

  private finish(outcome: ExplainedWalk['outcome'], result: string): void {
    const { address, access, mode, title } = this.context;
    const nodes = this.nodes;
    this.nodes = [];
    this.walks.push({ by: 'processor', title, address, access, mode, nodes, checks: [], outcome, result });
  }
}

function contextOf(dim: number): ContextName {
  return dim === Dim.GUEST ? 'cpuWalk' : 'tdpWalk';
}

/** In the order of the rows; empty where they hold no walk. */
export function walksOfRows(rows: readonly Row[], context: WalksContext): readonly ExplainedWalk[] {
  const builder = new Builder(context);
  for (const row of rows) builder.row(row);
  return builder.end();
}
