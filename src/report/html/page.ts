/**
 * The whole report as one page of HTML: nothing is fetched, so that it opens from disk, and a content policy allows only
 * the page's own style and script.
 */

import { createHash } from 'node:crypto';
import type { Explanation } from '../../replay/explanation.ts';
import { placeOf } from '../replay-cases.ts';
import type { CaseOutcome, ReportCase, ReportDifference, ReportRun } from '../run.ts';
import { counted, countText } from '../table.ts';
import { registerBits } from './bits.ts';
import { explanationMarkup } from './explanation.ts';
import { html, joined, Markup } from './markup.ts';
import { detailsMarkup, placesMarkup, preMarkup, registersMarkup } from './parts.ts';
import { SCRIPT } from './script.ts';
import { STYLE } from './style.ts';
import { timelinePicture } from './timeline-picture.ts';
import { markDifferences, walkGrid } from './walk-grid.ts';
import { legend, walkPicture } from './walk-picture.ts';

const OUTCOMES: readonly CaseOutcome[] = ['fail', 'error', 'pass', 'skip'];
const OUTCOME_TEXT: Readonly<Record<CaseOutcome, string>> = {
  pass: 'passed',
  fail: 'failed',
  error: 'with errors',
  skip: 'skipped',
};

/** Differences in the table at the top. */
const MAXIMUM_FIRSTS = 100;
/** Cases that are open when the page is. */
const OPEN_CASES = 3;
/** Walks of one side of a step that are drawn. */
const MAXIMUM_WALKS = 4;

function sourceHash(text: string): string {
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
}

/** A page with the report's style and script around `body`. */
export function htmlPage(title: string, body: Markup): string {
  const policy = `default-src 'none'; style-src ${sourceHash(STYLE)}; script-src ${sourceHash(SCRIPT)}; base-uri 'none'; form-action 'none'`;
  const page = html`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${new Markup(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>${title}</title>
<style>${new Markup(STYLE)}</style>
</head>
<body>
${body}
<div id="tip" role="tooltip" hidden></div>
<script>${new Markup(SCRIPT)}</script>
</body>
</html>
`;
  return page.text;
}

function badge(outcome: CaseOutcome, text: string): Markup {
  return html`<span class="badge ${outcome}">${text}</span>`;
}

function countOf({ cases }: ReportRun, outcome: CaseOutcome): number {
  return cases.filter((each) => each.outcome === outcome).length;
}

function headerMarkup(run: ReportRun): Markup {
  const tiles = OUTCOMES.filter((outcome) => countOf(run, outcome) > 0 || outcome === 'pass' || outcome === 'fail');
  const steps = run.cases.reduce((total, { steps }) => total + steps, 0);
  const compared = run.cases.reduce((total, each) => total + each.compared, 0);
  let x = 0;
  const bars = OUTCOMES.map((outcome) => {
    const width = run.cases.length === 0 ? 0 : (100 * countOf(run, outcome)) / run.cases.length;
    x += width;
    return html`<rect class="${outcome}" x="${x - width}" y="0" width="${width}" height="1"/>`;
  });
  const good = run.exitStatus === 0;
  const when = run.startedAt.toISOString().replace('T', ' ').slice(0, 16);
  return html`<header><h1>${run.command} ${badge(good ? 'pass' : 'fail', good ? 'as expected' : 'not as expected')}</h1>
<p class="dim">${when} UTC, ${run.seconds.toFixed(1)} s, rewalk ${run.version}, exit status ${run.exitStatus}</p>
${run.faults.map((fault) => html`<p class="cause">${fault}</p>`)}
<ul class="tiles"><li><b>${countText(run.cases.length)}</b>${run.cases.length === 1 ? 'trace' : 'traces'}</li>${tiles.map(
    (outcome) => html`<li class="${outcome}"><b>${countText(countOf(run, outcome))}</b>${OUTCOME_TEXT[outcome]}</li>`,
  )}<li><b>${countText(steps)}</b>steps</li><li><b>${countText(compared)}</b>${run.unit}</li></ul>
<svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" role="img" aria-label="outcomes">${bars}</svg></header>`;
}

/** The first of each case that is not as expected. */
function firstsMarkup(run: ReportRun): Markup {
  const bad = run.cases
    .map((each, i) => ({ each, i }))
    .filter(({ each }) => each.reason !== '' && each.outcome !== 'skip');
  if (bad.length === 0) return html``;
  const rows = bad.slice(0, MAXIMUM_FIRSTS).map(({ each, i }) => {
    const step = each.differences[0]?.step;
    return html`<tr data-case="case-${i}"><td>${badge(each.outcome, each.verdict)}</td><td><a href="#case-${i}">${each.file}</a></td><td>${
      step === undefined ? '' : `step ${countText(step)}`
    }</td><td>${each.reason.replace(/^step \d+: /, '')}</td></tr>`;
  });
  const more = bad.length - rows.length;
  return html`<h2>First divergences</h2><table class="firsts"><tr><th>verdict</th><th>trace</th><th>first at</th><th>why</th></tr>${rows}</table>${
    more > 0 ? html`<p class="dim">and ${counted(more, 'trace')} more, below</p>` : undefined
  }`;
}

/** Walks by side; where each side has one, what differs between them is marked. */
function walksMarkup({ walks, labels }: ReportDifference): Markup {
  const grids = walks.slice(0, MAXIMUM_WALKS).map(({ label, walk }) => ({ label, walk, grid: walkGrid(walk) }));
  const drawn = grids.filter(({ grid }) => grid !== undefined);
  if (drawn.length === 0) return html``;
  const [left, right] = labels.map((label) => drawn.filter((each) => each.label === label));
  for (let i = 0; i < Math.min(left?.length ?? 0, right?.length ?? 0); i++) {
    markDifferences(left![i]!.grid!, right![i]!.grid!);
  }
  const missing = labels.filter((label) => !drawn.some((each) => each.label === label));
  const note =
    missing.length === 1 ? html`<p class="dim">No walk of the side ${missing[0]} is to be seen.</p>` : undefined;
  const more = walks.length - grids.length;
  return html`<div class="walks">${drawn.map(({ walk, grid }) => walkPicture(walk, '', grid))}</div>${note}${
    more > 0 ? html`<p class="dim">and ${counted(more, 'walk')} more</p>` : undefined
  }`;
}

function differenceMarkup(difference: ReportDifference): Markup {
  const { step, where, judgement, stimulus, mode, cause, places, labels, registers, explanation } = difference;
  const title = step === undefined ? judgement : `Step ${countText(step)}: ${judgement}`;
  return html`<section class="difference"><h3>${title}${where === '' ? undefined : html` <span class="dim">${where}</span>`}</h3>
${stimulus === '' ? undefined : html`<p><span class="stimulus">${stimulus}</span> <span class="mode">${mode}</span></p>`}
<p class="cause">${cause}</p>
${placesMarkup(places, labels)}${walksMarkup(difference)}${registersMarkup(registers)}${
  explanation === undefined
    ? undefined
    : detailsMarkup('Explained: walks, TLB, SPTEs, contexts, actions', explanationMarkup(explanation, cause), true)
}</section>`;
}

function groupsMarkup({ groups }: ReportCase): Markup {
  if (groups.length < 2) return html``;
  const rows = groups.map(
    ({ group, count, first }) =>
      html`<tr><td>${countText(count)}</td><td>${group}</td><td>first at step ${countText(first)}</td></tr>`,
  );
  return html`<h3>Of the like</h3><div class="scroll"><table>${rows}</table></div>`;
}

function caseMarkup(each: ReportCase, i: number, open: boolean): Markup {
  const { file, title, outcome, verdict, steps, compared, reason, differing, differences, groups, receipt } = each;
  const more = differing - differences.length;
  const notInFull = `${counted(more, 'difference')} more not shown in full; --max-diffs shows more.`;
  const { rest = more > 0 ? notInFull : '' } = each;
  const marks = [
    ...differences.flatMap(({ step }) => (step === undefined ? [] : [step])),
    ...groups.map(({ first }) => first),
  ];
  const counts = `${counted(steps, 'step')}, ${countText(compared)} compared${differing > 0 ? `, ${countText(differing)} differing` : ''}`;
  return html`<details class="case" id="case-${i}" data-outcome="${outcome}"${open ? html` open` : undefined}>
<summary>${badge(outcome, verdict)} <span class="file">${file}</span> <span class="dim">${counts}</span></summary>
<div class="body"><p class="dim">${title}</p>${
    differences.length === 0 && reason !== '' ? html`<p class="cause">${reason}</p>` : undefined
  }${each.timeline === undefined ? undefined : timelinePicture(each.timeline, marks)}${differences.map(differenceMarkup)}${
    rest === '' ? undefined : html`<p class="dim">${rest}</p>`
  }${groupsMarkup(each)}${receipt.length === 0 ? undefined : detailsMarkup('Receipt: what was compared', preMarkup(receipt))}</div></details>`;
}

function toolsMarkup(run: ReportRun): Markup {
  const chip = (outcome: string, text: string, pressed: boolean): Markup =>
    html`<button type="button" data-outcome="${outcome}" aria-pressed="${String(pressed)}">${text}</button>`;
  const chips = OUTCOMES.filter((outcome) => countOf(run, outcome) > 0).map((outcome) =>
    chip(outcome, `${OUTCOME_TEXT[outcome]} ${countText(countOf(run, outcome))}`, false),
  );
  return html`<div class="tools" role="search"><input id="search" type="search" placeholder="Search: file, field, address, cause" aria-label="Search in all cases" autocomplete="off">
${chip('all', 'all', true)}${chips}<button type="button" id="open" aria-pressed="false">open all</button><span id="count" class="dim" role="status"></span></div>`;
}

/** A single step explained, as one file. */
export function explanationPage(explanation: Explanation, version: string): string {
  const { trace, machine, step, divergence, difference } = explanation;
  const good = divergence === undefined && difference === undefined;
  const registers = step.registers.map(({ name, value, decoded }) => ({
    name,
    value,
    short: decoded,
    lines: registerBits(name, value),
  }));
  const place = placeOf(step.source, step.line);
  const body = html`<header><h1>Step ${countText(step.ordinal)} of <span class="file">${trace.file}</span> ${badge(good ? 'pass' : 'fail', good ? 'as expected' : 'differs')}</h1>
<p class="dim">${trace.title}; ${trace.recorder}; segment ${step.segment}${place === '' ? '' : `; ${place}`}; vCPU ${step.vcpu}</p><p class="dim">${machine}</p></header>
<main><p><span class="badge skip">${step.kind}</span> <span class="stimulus">${step.text}</span> <span class="mode">${step.mode}</span></p>
${legend()}${explanationMarkup(explanation)}${registersMarkup(registers)}</main>
<footer>Made by rewalk ${version}. Dotted words and cells explain themselves on hover, focus or touch.</footer>`;
  return htmlPage(`step ${step.ordinal} of ${trace.file}`, body);
}

/** The report of a run as one file. */
export function htmlReport(run: ReportRun): string {
  let opened = 0;
  const cases = run.cases.map((each, i) => {
    const bad = each.outcome === 'fail' || each.outcome === 'error';
    const open = (bad || run.cases.length === 1) && opened < OPEN_CASES;
    if (open) opened++;
    return caseMarkup(each, i, open);
  });
  const drawn = run.cases.some(({ differences }) =>
    differences.some(({ walks, explanation }) => walks.length + (explanation?.walks.length ?? 0) > 0),
  );
  const body = html`${headerMarkup(run)}
<main>${firstsMarkup(run)}${detailsMarkup('Totals: what was compared, and what was not', preMarkup(run.totals))}
<h2>Traces</h2>${toolsMarkup(run)}${drawn ? legend() : undefined}
${joined(cases, '\n')}</main>
<footer>Made by rewalk ${run.version}. Dotted words explain themselves on hover, focus or touch; / searches.</footer>`;
  return htmlPage(`${run.command}: ${run.exitStatus === 0 ? 'as expected' : 'not as expected'}`, body);
}
