/** The grid of a walk as SVG: a cell for each read, coloured by what became of it, explained on hover and focus. */

import type { ExplainedCheck, ExplainedWalk, WalkNode } from '../../replay/explanation.ts';
import { nodeBits } from './bits.ts';
import { html, joined, linesAttribute, type Markup } from './markup.ts';
import { type CellState, type GridCell, type GridRow, type WalkGrid, walkGrid } from './walk-grid.ts';

const CELL_WIDTH = 60;
const CELL_HEIGHT = 44;
const GAP = 5;
/** Above each row: what is translated there. */
const LABEL = 17;
const HEAD = 20;
/** Between the second stage and the guest's own column. */
const AISLE = 15;

const STATE_TEXT: Readonly<Record<CellState, string>> = {
  passed: 'read, the walk went on',
  stopped: 'the walk stopped here',
  'not-reached': 'not reached',
  none: 'no such read',
};

const MARK: Readonly<Record<ExplainedCheck['outcome'], string>> = { pass: '✓', fail: '✗', 'not-asked': '·' };

export function checkText({ outcome, rule, detail, citation, contradicted }: ExplainedCheck): string {
  const parts = [`${MARK[outcome]} ${rule}`, detail === '' ? '' : `: ${detail}`, ` (${citation})`];
  return parts.join('') + (contradicted === undefined ? '' : `; the machine: ${contradicted}`);
}

/** What the words of a walk are read by. */
export interface WordsOf {
  /** The walk's mode, and the machine in words. */
  readonly mode: string;
  readonly machine: string;
}

/** Everything that is known of a node, a line each. */
export function nodeLines(node: WalkNode, { mode, machine }: WordsOf): string[] {
  const { name, context, address, gpa, value, decoded, rights, checks, stopped } = node;
  return [
    `${name}, ${context}`,
    ...(address === '' ? [] : [`at     ${address}`]),
    ...(gpa === '' || gpa === address ? [] : [`gpa    ${gpa}`]),
    ...(value === '' ? [] : [`value  ${value}`]),
    ...(decoded === '' ? [] : [decoded]),
    ...nodeBits(node, mode, machine),
    ...(rights === '' ? [] : [`rights so far: ${rights}`]),
    ...checks
      .filter(({ outcome, contradicted }) => outcome !== 'not-asked' || contradicted !== undefined)
      .map(checkText),
    ...(stopped === undefined ? [] : [`stopped: ${stopped}`]),
  ];
}

function cellLines(cell: GridCell, of: WordsOf): string[] {
  const notes = [
    cell.order === 0 ? '' : `read ${cell.order}`,
    cell.written ? 'A or D written back' : '',
    cell.differs ? 'the other side has something else here' : '',
  ].filter((note) => note !== '');
  if (cell.node === undefined) return [`${cell.name}: ${STATE_TEXT[cell.state]}`, ...notes];
  return [...nodeLines(cell.node, of), ...notes];
}

function cellPicture(cell: GridCell, x: number, y: number, row: GridRow, of: WordsOf): Markup {
  const { state, name, index, order, written, differs, node } = cell;
  if (state === 'none') {
    return html`<g class="cell none"><line x1="${x + 16}" y1="${y + CELL_HEIGHT / 2}" x2="${x + CELL_WIDTH - 16}" y2="${y + CELL_HEIGHT / 2}"/></g>`;
  }
  const lines = cellLines(cell, of);
  const second = node?.rights || (index < 0 ? '' : `#${index}`);
  const label = `${name} for ${row.name}: ${STATE_TEXT[state]}`;
  return html`<g class="cell ${state}${differs ? ' differs' : ''}" tabindex="0" role="img" aria-label="${label}" data-tip="${linesAttribute(lines)}">
<rect x="${x}" y="${y}" width="${CELL_WIDTH}" height="${CELL_HEIGHT}" rx="5"/>
<text x="${x + CELL_WIDTH / 2}" y="${y + 19}">${name}</text>
<text class="small" x="${x + CELL_WIDTH / 2}" y="${y + 35}">${state === 'stopped' ? `✗ ${second}` : second}</text>
${order === 0 ? undefined : html`<text class="order" x="${x + 4}" y="${y + 9}">${order}</text>`}${
  written ? html`<circle class="written" cx="${x + CELL_WIDTH - 8}" cy="${y + 8}" r="3.5"/>` : undefined
}</g>`;
}

function rowPicture(grid: WalkGrid, row: GridRow, y: number, guestX: number, of: WordsOf): Markup {
  const middle = y + LABEL + CELL_HEIGHT / 2;
  const cells = row.second.map((cell, i) => cellPicture(cell, i * (CELL_WIDTH + GAP), y + LABEL, row, of));
  const reached = row.guest.state !== 'not-reached';
  const again = row.name.includes(',') ? ` (${row.name})` : '';
  const label =
    row.gpa !== '' ? `gpa ${row.gpa}${again}` : row.guest.node?.address ? `at ${row.guest.node.address}` : '';
  const arrow =
    grid.levels.length === 0 || row.guest.state === 'none'
      ? undefined
      : html`<path class="arrow${reached ? '' : ' cut'}" d="M${guestX - AISLE + 1} ${middle}h${AISLE - 5}m-4 -4l4 4l-4 4"/>`;
  return html`<text class="gpa" x="0" y="${y + LABEL - 5}">${label}</text>${cells}${arrow}${cellPicture(row.guest, guestX, y + LABEL, row, of)}`;
}

function gridPicture(grid: WalkGrid, title: string, walk: ExplainedWalk, of: WordsOf): Markup {
  const [secondStage, guest] = [secondStageOf(walk), ownTables(walk)];
  const columns = grid.levels.length;
  const guestX = columns === 0 ? 0 : columns * (CELL_WIDTH + GAP) - GAP + AISLE;
  const rowHeight = LABEL + CELL_HEIGHT + 2;
  const width = Math.max(guestX + CELL_WIDTH, 190);
  const height = HEAD + grid.rows.length * rowHeight + 4;
  const head = [
    ...(columns === 0 ? [] : [html`<text class="head" x="0" y="13">${secondStage}</text>`]),
    html`<text class="head${columns === 0 ? '' : ' end'}" x="${columns === 0 ? 0 : width}" y="13">${guest}</text>`,
  ];
  const rows = grid.rows.map((row, i) => rowPicture(grid, row, HEAD + i * rowHeight, guestX, of));
  // A hair's breadth around: strokes are wider than what they go along.
  return html`<svg class="walk${columns === 0 ? ' narrow' : ''}" viewBox="-3 0 ${width + 6} ${height}" role="group" aria-label="${title}">${head}${joined(rows)}</svg>`;
}

/** `NPT of tdpWalk`; `SPTEs of rootMmu`. */
function secondStageOf(walk: ExplainedWalk): string {
  const node = walk.nodes.flatMap(({ inner }) => inner).find(({ kind }) => kind === 'entry');
  if (node === undefined) return '';
  const what = /^(EPT|NPT)/.exec(node.name)?.[1] ?? (node.name.startsWith('SPTE') ? 'SPTEs' : 'second stage');
  return `${what} (${node.context})`;
}

/** `cpuWalk`; `guest` where nobody says whose tables they are. */
function ownTables(walk: ExplainedWalk): string {
  const node = walk.nodes.find(({ kind }) => kind === 'entry');
  if (node === undefined) return 'address';
  return node.name.startsWith('SPTE') ? `SPTEs (${node.context})` : node.context;
}

/**
 * A walk's picture with its outcome below. `machine`: in words, where SPTEs may be in it. `grid`: where it is compared with
 * another's; made here otherwise.
 */
export function walkPicture(walk: ExplainedWalk, machine = '', grid = walkGrid(walk)): Markup {
  const of = { mode: walk.mode, machine };
  const what = [walk.title, walk.address, walk.access].filter((part) => part !== '').join(', ');
  if (grid === undefined) {
    return html`<figure class="picture"><figcaption><b>${walk.title}</b> ${walk.result}</figcaption></figure>`;
  }
  const roots = grid.roots.map(
    (node) =>
      html`<button type="button" class="word" data-tip="${linesAttribute(nodeLines(node, of))}">${node.name} ${node.value}</button> `,
  );
  const outcome = walk.outcome === 'fault' ? 'stopped' : 'passed';
  return html`<figure class="picture"><figcaption><b>${walk.title}</b><span class="mode">${walk.mode}</span>${roots}</figcaption>
${gridPicture(grid, `${what}, ${walk.mode}: ${walk.result}`, walk, of)}
<p class="result ${outcome}">${grid.reads} read${grid.reads === 1 ? '' : 's'}: ${walk.result}</p></figure>`;
}

/** What the colours say; once on a page. */
export function legend(): Markup {
  const swatch = (state: string, text: string): Markup =>
    html`<li><svg viewBox="0 0 18 14" class="swatch walk" aria-hidden="true"><g class="cell ${state}"><rect x="1" y="1" width="16" height="12" rx="3"/></g></svg>${text}</li>`;
  return html`<ul class="legend">${[
    swatch('passed', 'read, went on'),
    swatch('stopped', 'stopped here'),
    swatch('not-reached', 'not reached'),
    swatch('passed differs', 'differs between the sides'),
    html`<li><svg viewBox="0 0 18 14" class="swatch walk" aria-hidden="true"><circle class="written" cx="9" cy="7" r="4"/></svg>A or D written back</li>`,
    html`<li>small number: order of the reads</li>`,
  ]}</ul>`;
}
