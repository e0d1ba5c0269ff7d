/** An explanation as text for a terminal: the walk as a tree, what took part, both sides, and the cause first and last. */

import type {
  ExplainedCheck,
  ExplainedDivergence,
  ExplainedParting,
  ExplainedPlace,
  ExplainedWalk,
  Explanation,
  WalkNode,
} from '../replay/explanation.ts';
import { escapeControls } from './escape.ts';
import type { PaintText } from './replay-text.ts';
import { tableLines } from './table.ts';

/** Places shown before the first difference and after it. */
const BEFORE = 3;
const AFTER = 9;
/** Actions shown unless all are asked for. */
const USUAL_ACTIONS = 40;

export interface ExplainTextOptions {
  /** Also the rules that were not asked, registers, contexts that had no part, every action. */
  readonly all: boolean;
}

/** The lines of an explanation. */
export function explanationLines(explanation: Explanation, paint: PaintText, { all }: ExplainTextOptions): string[] {
  const { trace, step, machine, outcome, cause, walks, tlb, tables, contexts, actions, notes } = explanation;
  const where =
    step.source === undefined ? '' : `, ${step.source}${step.line === undefined ? '' : ` line ${step.line}`}`;
  const lines = [
    paint('bold', escapeControls(`${trace.file} step ${step.ordinal}: ${step.text}`)),
    ...tableLines(
      [
        ['trace', `${trace.title}${where}`],
        ['machine', `${machine}; vCPU ${step.vcpu}, ${step.mode}`],
        ['outcome', outcome],
      ].map((row) => row.map(escapeControls)),
    ),
  ];
  if (cause !== undefined) lines.push(`${paint('red', 'cause')}    ${escapeControls(cause)}`);
  for (const note of notes) lines.push(escapeControls(`note: ${note}`));
  if (all) {
    lines.push('', paint('bold', 'registers'));
    lines.push(
      ...tableLines(
        step.registers.map(({ name, value, decoded }) => [name, value, decoded].map(escapeControls)),
        [],
        2,
      ),
    );
  }
  for (const walk of walks) lines.push('', ...walkLines(walk, paint, all));
  if (tlb.length > 0) {
    lines.push('', paint('bold', 'TLB before the step'));
    for (const { page, to, pageShift, rights, part } of tlb) {
      lines.push(escapeControls(`  ${page} → ${to}, 2^${pageShift} bytes, ${rights}: ${part}`));
    }
  }
  for (const { context, kind, address, root, inForce, sptes } of tables) {
    lines.push('', paint('bold', `${context}: ${kind}, for ${address}`));
    lines.push(`  root: ${root}${inForce ? '' : '; not in force'}`);
    for (const { level, place, value, before, decoded, table } of sptes) {
      const change = before === undefined ? '' : paint('yellow', ` (was ${before})`);
      lines.push(`  ${'  '.repeat(5 - level)}level ${level} [${place}] ${value}  ${decoded}${change}`);
      lines.push(paint('dim', `  ${'  '.repeat(5 - level)}  in the table of ${table}`));
    }
    if (sptes.length === 0) lines.push('  no table');
  }
  const shownContexts = contexts.filter(({ used }) => used || all);
  if (shownContexts.length > 0) {
    lines.push('', paint('bold', 'contexts after the step'));
    lines.push(
      ...tableLines(
        shownContexts.map(({ context, state, used }) =>
          [context, used ? state : `${state} (no part)`].map(escapeControls),
        ),
        [],
        2,
      ),
    );
  }
  if (actions.length > 0) {
    lines.push('', paint('bold', 'what was done, in order'));
    const limit = all ? actions.length : USUAL_ACTIONS;
    for (const { context, kind, text } of actions.slice(0, limit)) {
      const style = kind === 'event' || kind === 'observation' ? text : paint('yellow', escapeControls(text));
      lines.push(
        `  ${context.padEnd(13)} ${kind === 'event' || kind === 'observation' ? escapeControls(text) : style}`,
      );
    }
    if (actions.length > limit) lines.push(`  … ${actions.length - limit} more (--all)`);
  }
  if (explanation.divergence !== undefined) lines.push('', ...divergenceLines(explanation.divergence, paint));
  if (explanation.difference !== undefined) lines.push('', ...divergenceLines(explanation.difference, paint));
  if (explanation.parting !== undefined) lines.push('', ...partingLines(explanation.parting, paint));
  return lines;
}

function walkLines(walk: ExplainedWalk, paint: PaintText, all: boolean): string[] {
  const end =
    walk.outcome === 'fault' ? paint('red', escapeControls(walk.result)) : paint('green', escapeControls(walk.result));
  const lines = [
    paint('bold', escapeControls(`${walk.title}: ${walk.address}, ${walk.access}, ${walk.mode}`)),
    ...nodeLines(walk.nodes, '', paint, all),
  ];
  for (const check of shown(walk.checks, all)) lines.push(`  ${checkText(check, paint)}`);
  const how = walk.outcome === 'served' ? 'served by the TLB: ' : '';
  lines.push(`  => ${how}${end}`);
  return lines;
}

function nodeLines(nodes: readonly WalkNode[], indent: string, paint: PaintText, all: boolean): string[] {
  return nodes.flatMap((node, i) => {
    const isLast = i === nodes.length - 1;
    const branch = `${indent}${isLast ? '└─ ' : '├─ '}`;
    const below = `${indent}${isLast ? '   ' : '│  '}`;
    const lines = nodeLines(node.inner, `${indent}│  `, paint, all).map((line) => paint('dim', line));
    lines.push(`  ${branch}${nodeText(node, paint)}`);
    for (const check of shown(node.checks, all)) {
      if (all || check.outcome === 'fail' || check.contradicted !== undefined)
        lines.push(`  ${below}  ${checkText(check, paint)}`);
    }
    return lines;
  });
}

function nodeText(node: WalkNode, paint: PaintText): string {
  const { kind, context, name, address, gpa, value, decoded, rights, stopped } = node;
  const place = address === '' ? '' : ` [${address}${gpa === '' || gpa === address ? '' : `, gpa ${gpa}`}]`;
  const end = stopped === undefined ? '' : paint('red', `  STOPPED: ${stopped}`);
  const so = rights === '' ? '' : paint('green', `  so far ${rights}`);
  switch (kind) {
    case 'register':
      return escapeControls(`${context} ${name} ${value}${decoded === '' ? '' : `  ${decoded}`}`) + end;
    case 'address':
      return escapeControls(`${context} ${name}${place}`) + end;
    case 'write':
      return escapeControls(`${context} writes ${name}${place}${value === '' ? '' : ` = ${value}`}`);
    default:
      return escapeControls(`${context} ${name}${place} = ${value}  ${decoded}`) + so + end;
  }
}

function shown(checks: readonly ExplainedCheck[], all: boolean): readonly ExplainedCheck[] {
  return all
    ? checks
    : checks.filter(({ outcome, contradicted }) => outcome !== 'not-asked' || contradicted !== undefined);
}

function checkText({ rule, citation, outcome, detail, contradicted }: ExplainedCheck, paint: PaintText): string {
  const word =
    outcome === 'pass' ? paint('green', 'pass') : outcome === 'fail' ? paint('red', 'FAIL') : paint('dim', 'not asked');
  const why = detail === '' ? '' : `: ${detail}`;
  const wrong = contradicted === undefined ? '' : paint('red', ` — BUT ${escapeControls(contradicted)}`);
  return `${word} ${escapeControls(`${rule}${why} (${citation})`)}${wrong}`;
}

const BETWEEN: Readonly<Record<ExplainedDivergence['between'], string>> = {
  recording: 'recorded and replayed',
  guest: 'a bare processor and the guest on KVM',
  machines: 'the two machines at this step',
};

function divergenceLines({ between, labels, places, at, cause }: ExplainedDivergence, paint: PaintText): string[] {
  return [
    paint('bold', `${BETWEEN[between]}, side by side`),
    ...placeLines(places, at, labels, paint),
    `  ${paint('red', escapeControls(cause))}`,
  ];
}

function placeLines(
  places: readonly ExplainedPlace[],
  at: number,
  labels: readonly [string, string],
  paint: PaintText,
): string[] {
  const begin = Math.max(0, at - BEFORE);
  const lines: string[] = [];
  if (begin > 0) lines.push(paint('dim', `    … ${begin} equal before`));
  for (const { state, a, b } of places.slice(begin, at + AFTER)) {
    if (state === 'equal') lines.push(...a.map((text) => paint('dim', `    ${escapeControls(text)}`)));
    else {
      lines.push(...a.map((text) => `  - ${escapeControls(`${labels[0]}: ${text}`)}`));
      lines.push(...b.map((text) => `  + ${escapeControls(`${labels[1]}: ${text}`)}`));
    }
  }
  const left = places.length - (at + AFTER);
  if (left > 0) lines.push(paint('dim', `    … ${left} more`));
  return lines;
}

function partingLines(
  { labels, step, stepText, sentence, places, state }: ExplainedParting,
  paint: PaintText,
): string[] {
  const at = places.findIndex((place) => place.state !== 'equal');
  return [
    paint('bold', escapeControls(`${labels[0]} and ${labels[1]} first part at step ${step}: ${stepText}`)),
    `  ${paint('red', escapeControls(sentence))}`,
    ...placeLines(places, Math.max(0, at), labels, paint),
    ...(state.length === 0 ? [] : ['  state after it:', ...state.map((line) => `    ${escapeControls(line)}`)]),
  ];
}
