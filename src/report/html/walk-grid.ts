/**
 * A walk as a grid, before it is drawn: a row for each entry of the guest's tables and for the final address, a column
 * for each level of the second stage, and the guest's entry itself at the right. Five levels by five: 35 reads.
 */

import { entryName } from '../../formats/decode/page-table-entry.ts';
import type { ExplainedWalk, WalkNode } from '../../replay/explanation.ts';

/**
 * `passed`: read, and the walk went on. `stopped`: it ended here. `not-reached`: it ended before. `none`: there is no such
 * read, since a page is large or the address has no second stage.
 */
export type CellState = 'passed' | 'stopped' | 'not-reached' | 'none';

export interface GridCell {
  readonly state: CellState;
  /** `PML4E`. */
  readonly name: string;
  /** Index of the entry in its table, -1 if not known. */
  readonly index: number;
  /** Which read it is, from 1; 0 if it is none. */
  readonly order: number;
  /** A or D was written back. */
  readonly written: boolean;
  /** Another walk has something else here. */
  differs: boolean;
  readonly node: WalkNode | undefined;
}

export interface GridRow {
  /** What the second stage translates: `gpa 0x...` or empty. */
  readonly gpa: string;
  readonly name: string;
  /** By column of the second stage, highest level first; empty without one. */
  readonly second: readonly GridCell[];
  /** The guest's own entry; of the last row the final address. */
  readonly guest: GridCell;
}

export interface WalkGrid {
  /** Levels of the second stage, highest first; empty without one. */
  readonly levels: readonly number[];
  readonly rows: readonly GridRow[];
  /** Where the walk begins: `CR3 0x...`. */
  readonly roots: readonly WalkNode[];
  /** Reads made. */
  readonly reads: number;
  readonly stopped: WalkNode | undefined;
}

/** Levels that a mode's tables have; 0 where it has none. */
function topOf(mode: string): number {
  const levels = /\b([45])-level|\b([2-5]) levels/.exec(mode);
  if (levels !== null) return Number(levels[1] ?? levels[2]);
  if (/\bpae\b/i.test(mode)) return 3;
  return mode.includes('32-bit') ? 2 : 0;
}

function isRead(node: WalkNode): boolean {
  return node.kind === 'entry';
}

/** 8-byte entries, or 4-byte ones in 32-bit paging. */
function indexOf(node: WalkNode, mode: string, guest: boolean): number {
  const address = /^0x[0-9a-f]+$/i.test(node.address)
    ? Number.parseInt(node.address.slice(-3).replace(/^x/, ''), 16)
    : -1;
  if (address < 0) return -1;
  return guest && mode.startsWith('32-bit') ? address >>> 2 : address >>> 3;
}

class Numbering {
  reads = 0;
  stopped: WalkNode | undefined;

  cell(node: WalkNode, writes: readonly WalkNode[], mode: string, guest: boolean): GridCell {
    if (isRead(node)) this.reads++;
    if (node.stopped !== undefined) this.stopped = node;
    return {
      state: node.stopped === undefined ? 'passed' : 'stopped',
      name:
        node.kind === 'address'
          ? 'address'
          : node.name.replace(/^(?:EPT|NPT|guest) /, '').replace('SPTE level ', 'SPTE '),
      index: isRead(node) ? indexOf(node, mode, guest) : -1,
      order: isRead(node) ? this.reads : 0,
      written:
        isRead(node) &&
        writes.some(({ address, level }) => address === node.address && (level === 0 || level === node.level)),
      differs: false,
      node,
    };
  }
}

function empty(state: 'not-reached' | 'none', name: string): GridCell {
  return { state, name, index: -1, order: 0, written: false, differs: false, node: undefined };
}

/** The name of an address that is not an entry's. */
export const FINAL_ADDRESS = 'final address';

interface Stations {
  /** By the level of its entry, 0 for the final address: what the walk came to there. */
  readonly byLevel: ReadonlyMap<number, WalkNode>;
  /** Entries whose address went through the second stage once more, to be written back. */
  readonly again: readonly { readonly name: string; readonly node: WalkNode }[];
}

function stationsOf(walk: ExplainedWalk): Stations {
  const byLevel = new Map<number, WalkNode>();
  const again: { name: string; node: WalkNode }[] = [];
  let lowest = topOf(walk.mode) + 1;
  for (const node of walk.nodes) {
    if (node.kind === 'write' || isRoot(node)) continue;
    if (node.kind === 'address' && node.name === FINAL_ADDRESS) {
      if (!byLevel.has(0)) byLevel.set(0, node);
      continue;
    }
    const read =
      node.kind === 'address' && node.gpa !== '' ? [...byLevel].find(([, { gpa }]) => gpa === node.gpa) : undefined;
    if (read !== undefined) {
      again.push({ name: entryName(read[0]), node });
      continue;
    }
    // An address that is not the final one is an entry's, of the next table, which could not be read.
    const level = node.kind === 'address' ? Math.max(1, lowest - 1) : node.level;
    if (!byLevel.has(level)) byLevel.set(level, node);
    lowest = level;
  }
  return { byLevel, again };
}

/** A register that only tells where a walk begins; a PDPTE register stands for an entry. */
function isRoot(node: WalkNode): boolean {
  return node.kind === 'register' && !node.name.startsWith('PDPTE');
}

/** The grid of a walk; undefined where nothing was read. */
export function walkGrid(walk: ExplainedWalk): WalkGrid | undefined {
  const nodes = walk.nodes.filter(({ kind }) => kind !== 'write');
  const writes = walk.nodes.filter(({ kind }) => kind === 'write');
  const { byLevel: found, again } = stationsOf(walk);
  const inner = nodes.flatMap((node) => node.inner);
  if (!nodes.some(isRead) && !inner.some(isRead)) return undefined;
  const highest = Math.max(0, ...inner.filter(isRead).map(({ level }) => level));
  const levels = Array.from({ length: highest }, (_, i) => highest - i);
  const secondName = (level: number): string =>
    inner.some(({ name }) => name.startsWith('SPTE')) ? `SPTE ${level}` : entryName(level);
  // Where the guest has no tables of its own there is nothing but the final address.
  const top = Math.max(0, ...found.keys());
  const lowest = Math.min(...found.keys());
  const ended = walk.outcome !== 'translated';
  const numbering = new Numbering();
  const rows: GridRow[] = [];

  const secondOf = (node: WalkNode | undefined): GridCell[] => {
    const reads = (node?.inner ?? []).filter(isRead);
    const innerWrites = (node?.inner ?? []).filter(({ kind }) => kind === 'write');
    const broke = reads.some(({ stopped }) => stopped !== undefined);
    return levels.map((level) => {
      const read = reads.find((each) => each.level === level);
      if (read !== undefined) return numbering.cell(read, innerWrites, walk.mode, false);
      return empty(node === undefined || broke ? 'not-reached' : 'none', secondName(level));
    });
  };
  const add = (node: WalkNode | undefined, name: string): void => {
    const second = secondOf(node);
    const missing =
      node === undefined ||
      second.some(({ state }) => state === 'stopped') ||
      (node.kind === 'address' && node.name !== FINAL_ADDRESS);
    const guest = missing ? empty('not-reached', name) : numbering.cell(node, writes, walk.mode, true);
    rows.push({ gpa: node?.gpa ?? '', name, second, guest });
  };

  for (let level = top; level > 0; level--) {
    const node = found.get(level);
    // A level that is left out above one that was read, or of a walk that went through: the page is large.
    if (node === undefined && (level > lowest || !ended)) continue;
    add(node, entryName(level));
  }
  for (const { name, node } of again) {
    const second = secondOf(node);
    rows.push({ gpa: node.gpa, name: `${name}, written back`, second, guest: empty('none', name) });
  }
  if (highest > 0) add(found.get(0), 'address');
  const roots = [...nodes.filter(isRoot), ...(nodes.find((node) => node.inner.length > 0)?.inner ?? []).filter(isRoot)];
  return { levels, rows, roots, reads: numbering.reads, stopped: numbering.stopped };
}

function sameCell(a: GridCell | undefined, b: GridCell | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  if (a.state !== b.state) return false;
  return a.node?.value === b.node?.value && a.node?.address === b.node?.address && a.written === b.written;
}

/** Marks the cells in which two walks of one access are not alike. */
export function markDifferences(a: WalkGrid, b: WalkGrid): void {
  const cells = (grid: WalkGrid): Map<string, GridCell> => {
    const byPlace = new Map<string, GridCell>();
    for (const row of grid.rows) {
      byPlace.set(`${row.name} guest`, row.guest);
      row.second.forEach((cell, i) => {
        byPlace.set(`${row.name} ${grid.levels[i]}`, cell);
      });
    }
    return byPlace;
  };
  const [left, right] = [cells(a), cells(b)];
  for (const place of new Set([...left.keys(), ...right.keys()])) {
    const [one, other] = [left.get(place), right.get(place)];
    if (sameCell(one, other)) continue;
    for (const cell of [one, other]) if (cell !== undefined) cell.differs = true;
  }
}
