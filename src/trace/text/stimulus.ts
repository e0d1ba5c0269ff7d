/** The rare stimuli in the text form, both ways. */

import { wordText } from '../../bits/word64.ts';
import type { EntryFill, Memslot, PageImage, Stimulus } from '../stimulus.ts';
import { HYPERVISOR_CHANGES, MAXIMUM_SLOT, MEMSLOT_CHANGES, NOTIFIER_CALLS } from '../stimulus-message.ts';
import { parseName, parseNumber, parseWord } from './fields.ts';
import { asObject, asText, ObjectReader } from './objects.ts';
import type { ReadObject, TextObject } from './rows.ts';

const PAGE_WORDS = 512;

/** The keys that name a rare step, and the fields that each has. */
export const STIMULUS_FIELDS: Readonly<Record<Stimulus['kind'], readonly string[]>> = {
  note: [],
  'page-image': ['words'],
  'entry-fill': ['count', 'first', 'increment', 'size'],
  memslot: ['slot', 'addressSpace', 'address', 'size', 'readOnly', 'dirtyLog', 'userspace'],
  'dirty-log': [],
  notifier: ['start', 'end'],
  hypervisor: [],
};

export function stimulusObject(stimulus: Stimulus): TextObject {
  switch (stimulus.kind) {
    case 'note':
      return { note: stimulus.text };
    case 'page-image':
      return { 'page-image': wordText(stimulus.address), words: wordsObject(stimulus.words) };
    case 'entry-fill': {
      const object: TextObject = { 'entry-fill': wordText(stimulus.address), count: stimulus.count };
      object['first'] = wordText(stimulus.first);
      object['increment'] = wordText(stimulus.increment);
      if (stimulus.size !== 8) object['size'] = stimulus.size;
      return object;
    }
    case 'memslot':
      return memslotObject(stimulus);
    case 'dirty-log':
      return { 'dirty-log': stimulus.slot };
    case 'notifier':
      return { notifier: stimulus.what, start: wordText(stimulus.start), end: wordText(stimulus.end) };
    case 'hypervisor':
      return { hypervisor: stimulus.what };
  }
}

function memslotObject(stimulus: Memslot): TextObject {
  const object: TextObject = { memslot: stimulus.what, slot: stimulus.slot };
  if (stimulus.addressSpace !== 0) object['addressSpace'] = stimulus.addressSpace;
  object['address'] = wordText(stimulus.address);
  object['size'] = wordText(stimulus.size);
  if (stimulus.readOnly) object['readOnly'] = true;
  if (stimulus.dirtyLog) object['dirtyLog'] = true;
  object['userspace'] = wordText(stimulus.userspace);
  return object;
}

/** One of `names` by its number in the schema, which text may give instead. */
function parseWhat<T extends string>(key: string, value: unknown, names: readonly T[]): T {
  return names[parseName(key, value, names, names.length - 1)]!;
}

/** The words that are not zero, by index. */
function wordsObject(words: Uint32Array): TextObject {
  const object: TextObject = {};
  for (let i = 0; i < PAGE_WORDS; i++) {
    const lo = words[2 * i]!;
    const hi = words[2 * i + 1]!;
    if (lo !== 0 || hi !== 0) object[String(i)] = wordText({ lo, hi });
  }
  return object;
}

function parseWords(name: string, value: unknown): Uint32Array {
  const words = new Uint32Array(2 * PAGE_WORDS);
  for (const [key, element] of Object.entries(asObject(name, value))) {
    const index = parseNumber(name, /^\d{1,3}$/.test(key) ? Number(key) : key, PAGE_WORDS - 1);
    const { lo, hi } = parseWord(key, element);
    words[2 * index] = lo;
    words[2 * index + 1] = hi;
  }
  return words;
}

/** `key`: the one of `object` that names the kind. Only the stimulus' own fields are looked at. */
export function parseStimulus(object: ReadObject, key: Stimulus['kind']): Stimulus {
  const reader = new ObjectReader(object, `a step '${key}'`);
  switch (key) {
    case 'note':
      return { kind: key, text: asText(key, object[key]) };
    case 'page-image': {
      const words = reader.optional('words', parseWords) ?? new Uint32Array(2 * PAGE_WORDS);
      const image: PageImage = { kind: key, address: parseWord(key, object[key]), words };
      return image;
    }
    case 'entry-fill': {
      const fill: EntryFill = {
        kind: key,
        address: parseWord(key, object[key]),
        count: reader.number('count', 0, 0xffff_ffff),
        first: reader.word('first'),
        increment: reader.word('increment'),
        // Whether it is one of the two is asked with everything else about stimuli.
        size: reader.number('size', 8, 8) as 4 | 8,
      };
      return fill;
    }
    case 'memslot': {
      const memslot: Memslot = {
        kind: key,
        what: parseWhat(key, object[key], MEMSLOT_CHANGES),
        slot: reader.number('slot', 0, MAXIMUM_SLOT),
        addressSpace: reader.number('addressSpace', 0, 1),
        address: reader.word('address'),
        size: reader.word('size'),
        readOnly: reader.truth('readOnly'),
        dirtyLog: reader.truth('dirtyLog'),
        userspace: reader.word('userspace'),
      };
      return memslot;
    }
    case 'dirty-log':
      return { kind: key, slot: parseNumber(key, object[key], MAXIMUM_SLOT) };
    case 'notifier': {
      const what = parseWhat(key, object[key], NOTIFIER_CALLS);
      return { kind: key, what, start: reader.word('start'), end: reader.word('end') };
    }
    case 'hypervisor':
      return { kind: key, what: parseWhat(key, object[key], HYPERVISOR_CHANGES) };
  }
}
