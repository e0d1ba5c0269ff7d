/** What `rewalk explain` found out of a step, as sections of HTML. */

import type {
  ExplainedCheck,
  ExplainedDivergence,
  ExplainedPlace,
  ExplainedTables,
  ExplainedWalk,
  Explanation,
  WalkNode,
} from '../../replay/explanation.ts';
import type { ReportPlace } from '../run.ts';
import { counted } from '../table.ts';
import { spteBits } from './bits.ts';
import { html, type Markup } from './markup.ts';
import { detailsMarkup, placesMarkup, wordButton } from './parts.ts';
import { checkText, nodeLines, type WordsOf, walkPicture } from './walk-picture.ts';

/** A longer list of what was done is there when it is asked for. */
const OPEN_ACTIONS = 60;

function checksMarkup(checks: readonly ExplainedCheck[]): Markup {
  const shown = checks.filter(({ outcome, contradicted }) => outcome !== 'not-asked' || contradicted !== undefined);
  if (shown.length === 0) return html``;
  return html`<ul class="checks">${shown.map((check) => {
    const kind = check.contradicted === undefined ? check.outcome : 'contradicted';
    return html`<li class="${kind}">${checkText(check)}</li>`;
  })}</ul>`;
}

function nodeMarkup(node: WalkNode, of: WordsOf): Markup {
  const { name, address, value, decoded, rights, checks, inner, stopped, context, kind } = node;
  const where = address === '' ? '' : ` [${address}]`;
  const sign = kind === 'write' ? ' := ' : ' = ';
  const word = value === '' ? undefined : html`${sign}${wordButton(value, nodeLines(node, of))}`;
  return html`<li${stopped === undefined ? undefined : html` class="stopped"`}>${
    inner.length === 0 ? undefined : html`<ul class="tree inner">${inner.map((each) => nodeMarkup(each, of))}</ul>`
  }<b>${name}</b>${where}${word} ${decoded}${rights === '' ? '' : `, rights ${rights}`} <span class="by">${context}</span>${checksMarkup(checks)}${
    stopped === undefined ? undefined : html`<p class="result stopped">stopped: ${stopped}</p>`
  }</li>`;
}

function walkMarkup(walk: ExplainedWalk, machine: string): Markup {
  const of = { mode: walk.mode, machine };
  return html`<div>${walkPicture(walk, machine)}${detailsMarkup(
    `The walk entry by entry, with its rules (${counted(walk.nodes.length, 'node')})`,
    html`<ul class="tree">${walk.nodes.map((node) => nodeMarkup(node, of))}</ul>${checksMarkup(walk.checks)}`,
  )}</div>`;
}

function placeOf({ state, a, b }: ExplainedPlace): ReportPlace {
  const lines = (texts: readonly string[]): ReportPlace['a'] => texts.map((text) => ({ text, words: [] }));
  return { state, a: lines(a), b: lines(b) };
}

export function divergenceMarkup({ labels, places, cause }: ExplainedDivergence): Markup {
  return html`<p class="cause">${cause}</p>${placesMarkup(places.map(placeOf), labels)}`;
}

function tablesMarkup({ context, kind, address, root, inForce, sptes }: ExplainedTables, machine: string): Markup {
  const rows = sptes.map(({ level, place, value, before, decoded, table }) => {
    const bits = spteBits(value, level, machine);
    const lines = [
      ...(bits.length === 0 ? [decoded] : bits),
      ...(before === undefined ? [] : [`before the step: ${before}`]),
      table,
    ];
    return html`<tr><td>${level}</td><td>${place}</td><td>${wordButton(value, lines)}</td><td>${decoded}</td><td>${table}</td></tr>`;
  });
  const head = html`<tr><th>level</th><th>at</th><th>SPTE</th><th>in words</th><th>in the table</th></tr>`;
  return html`<p><b>${context}</b>: ${kind}, root ${root}${inForce ? '' : ', not in force'}, on the way to ${address}</p>
<div class="scroll"><table>${head}${rows}</table></div>`;
}

/**
 * The parts that follow a step's header: walks, TLB, SPTEs, contexts, what was done. Empty parts are left out. `said`: the
 * cause that stands above already, with the sides of the divergence; undefined where nothing does.
 */
export function explanationMarkup(explanation: Explanation, said?: string): Markup {
  const { walks, tlb, tables, contexts, actions, divergence, difference, parting, notes, cause, outcome } = explanation;
  const { machine } = explanation;
  const tlbRows = tlb.map(
    ({ page, to, pageShift, rights, part, stale }) =>
      html`<tr><td>${page}</td><td>${to}</td><td>${2 ** (pageShift - 10)} KiB</td><td>${rights}</td><td>${part}${stale ? ', stale' : ''}</td></tr>`,
  );
  const parts: (Markup | undefined)[] = [
    html`<p><b>${outcome}</b></p>`,
    cause === undefined || cause === said ? undefined : html`<p class="cause">${cause}</p>`,
    walks.length === 0 ? undefined : html`<div class="walks">${walks.map((walk) => walkMarkup(walk, machine))}</div>`,
    tlb.length === 0
      ? undefined
      : html`<h4>TLB</h4><div class="scroll"><table><tr><th>page</th><th>to</th><th>size</th><th>rights</th><th>part</th></tr>${tlbRows}</table></div>`,
    tables.length === 0
      ? undefined
      : html`<h4>SPTEs on the way</h4>${tables.map((each) => tablesMarkup(each, machine))}`,
    contexts.length === 0
      ? undefined
      : html`<h4>Contexts</h4><div class="scroll"><table>${contexts.map(
          ({ context, state, used }) =>
            html`<tr${used ? undefined : html` class="unused"`}><th scope="row">${context}</th><td class="short">${used ? 'used' : 'not used'}</td><td>${state}</td></tr>`,
        )}</table></div>`,
    actions.length === 0
      ? undefined
      : detailsMarkup(
          `What was done, in order (${actions.length})`,
          html`<ol class="actions">${actions.map(
            ({ context, kind, text }) => html`<li><span class="by">${context}, ${kind}</span> ${text}</li>`,
          )}</ol>`,
          actions.length <= OPEN_ACTIONS,
        ),
    divergence === undefined || said !== undefined
      ? undefined
      : html`<h4>Both sides</h4>${divergenceMarkup(divergence)}`,
    difference === undefined ? undefined : html`<h4>The two machines</h4>${divergenceMarkup(difference)}`,
    parting === undefined
      ? undefined
      : html`<h4>Where they parted: step ${parting.step}</h4><p>${parting.stepText}</p><p class="cause">${parting.sentence}</p>${placesMarkup(
          parting.places.map(placeOf),
          parting.labels,
        )}<ul>${parting.state.map((line) => html`<li>${line}</li>`)}</ul>`,
    notes.length === 0 ? undefined : html`<ul class="notes">${notes.map((note) => html`<li>${note}</li>`)}</ul>`,
  ];
  return html`${parts.filter((part) => part !== undefined)}`;
}
