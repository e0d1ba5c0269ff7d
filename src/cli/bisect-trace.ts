/** The work of `rewalk bisect`. */

import { type BadStep, type Bisected, type BisectProgress, bisect } from '../compare/bisect.ts';
import { escapeControls } from '../report/escape.ts';
import { stepText } from '../report/steps.ts';
import { counted, countText } from '../report/table.ts';
import type { Context } from './command.ts';
import type { WantedMachines } from './wanted-machines.ts';

/** Bisects and prints; whether there is a bad step. Throws what `bisect` throws. */
export async function bisectTrace(path: string, wanted: WantedMachines, context: Context): Promise<boolean> {
  const progress = await context.progress('bisecting');
  let found: Bisected | undefined;
  try {
    const work = bisect(path, { ...wanted, states: wanted.scope !== 'guest' });
    let next = work.next();
    for (; next.done !== true; next = work.next()) {
      const { value } = next;
      progress.update(() => progressText(path, value));
      await context.breathe();
    }
    found = next.value;
  } finally {
    progress.done();
  }
  if (context.json) context.out.json(resultObject(path, found, wanted));
  else context.out.lines(resultLines(path, found, wanted, context));
  return found?.shown !== undefined || found?.parted !== undefined;
}

function progressText(path: string, { phase, steps, runs }: BisectProgress): string {
  return `${escapeControls(path)}: ${phase}, ${counted(steps, 'step')}${runs === 0 ? '' : `, ${counted(runs, 'run')}`}`;
}

function stepLines(step: BadStep): string[] {
  const { op, addressLo, addressHi, operandLo, operandHi, stimuli, line, source } = step;
  const where = source === undefined ? '' : ` (${escapeControls(source)}${line === undefined ? '' : ` line ${line}`})`;
  const text = stepText(op, addressLo, addressHi, operandLo, operandHi, stimuli);
  return [`step ${countText(step.step)}${where}: ${text}`];
}

function resultLines(
  path: string,
  found: Bisected | undefined,
  { sides }: WantedMachines,
  { paint }: Context,
): string[] {
  const name = escapeControls(path);
  if (found === undefined || (found.shown === undefined && found.parted === undefined)) {
    const what = sides === undefined ? 'nothing diverges' : `${sides[0].label} and ${sides[1].label} do the same`;
    return [`${paint('green', 'no bad step')} in ${name}: ${what} in ${counted(found?.steps ?? 0, 'step')}`];
  }
  const { shown, parted, segment, runs } = found;
  const lines = [`${paint('red', 'bad')} ${name}${segment === 0 ? '' : `, segment ${segment}`}`];
  if (parted !== undefined) {
    const isEarlier = shown === undefined || parted.step < shown.step;
    lines.push(`the states part ${isEarlier ? 'at' : 'there, too: after'} ${stepLines(parted).join('')}`);
    lines.push(...parted.places.map((place) => `  ${paint('red', escapeControls(place))}`));
    if (parted.more > 0) lines.push(`  and ${countText(parted.more)} more`);
  }
  if (shown === undefined) lines.push('nothing shows that up to the end of the trace');
  else {
    lines.push(`it shows first at ${stepLines(shown).join('')}`);
    lines.push(`  ${paint('red', escapeControls(shown.cause))}`);
  }
  if (runs > 1) lines.push(`${counted(runs, 'run')} from the beginning`);
  return lines;
}

function stepObject({ step, line, source }: BadStep): object {
  return { step, ...(line === undefined ? {} : { line }), ...(source === undefined ? {} : { source }) };
}

function resultObject(path: string, found: Bisected | undefined, { sides }: WantedMachines): object {
  const { shown, parted } = found ?? {};
  return {
    trace: path,
    ...(sides === undefined ? {} : { machines: sides.map(({ label }) => label) }),
    bad: shown !== undefined || parted !== undefined,
    segment: found?.segment,
    steps: found?.steps ?? 0,
    runs: found?.runs ?? 0,
    ...(parted === undefined ? {} : { parted: { ...stepObject(parted), places: parted.places, more: parted.more } }),
    ...(shown === undefined ? {} : { shown: { ...stepObject(shown), class: shown.group, cause: shown.cause } }),
  };
}
