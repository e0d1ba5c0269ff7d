/** The rare stimuli: those that travel as messages, not in columns. */

import type { Word64 } from '../bits/word64.ts';

/** A page of physical memory as it was found. */
export interface PageImage {
  readonly kind: 'page-image';
  /** Physical address, 4 KiB aligned. */
  readonly address: Word64;
  /** 1024 elements: 512 words of 64 bits, low half first. */
  readonly words: Uint32Array;
}

/** A run of `count` entries of `size` bytes at `address`; entry i holds `first + i * increment`, modulo its size. */
export interface EntryFill {
  readonly kind: 'entry-fill';
  readonly address: Word64;
  readonly count: number;
  readonly first: Word64;
  readonly increment: Word64;
  readonly size: 4 | 8;
}

/** A label: a test's name, a configuration. */
export interface Note {
  readonly kind: 'note';
  readonly text: string;
}

export type Stimulus = PageImage | EntryFill | Note;
