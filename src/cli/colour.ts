/** Colour only where it is wanted: `--color`, then NO_COLOR and FORCE_COLOR, then whether it is a terminal. */

import { styleText } from 'node:util';
import type { TextStream } from './io.ts';

export const COLOUR_MODES = ['auto', 'always', 'never'] as const;
export type ColourMode = (typeof COLOUR_MODES)[number];

/** https://no-color.org, https://force-color.org; FORCE_COLOR=0 is a no. */
export function colourWanted(
  mode: ColourMode,
  stream: Pick<TextStream, 'isTTY'>,
  env: Readonly<Record<string, string | undefined>>,
): boolean {
  if (mode !== 'auto') return mode === 'always';
  const { NO_COLOR: no, FORCE_COLOR: force, TERM: term } = env;
  if (no !== undefined && no !== '') return false;
  if (force !== undefined && force !== '') return force !== '0' && force !== 'false';
  return stream.isTTY === true && term !== 'dumb';
}

export type Style = Parameters<typeof styleText>[0];

/** Puts a style on a text, or leaves it as it is. */
export type Paint = (style: Style, text: string) => string;

export function painter(wanted: boolean): Paint {
  return wanted ? (style, text) => styleText(style, text, { validateStream: false }) : (_style, text) => text;
}
