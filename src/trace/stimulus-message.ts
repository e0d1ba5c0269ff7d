/** The rare stimuli's messages and `Stimulus`, both ways. */

import { Problem } from '../bits/problem.ts';
import { type TraceLimits, withinLimit } from './limits.ts';
import { decoded, longOf, wordOf } from './messages.ts';
import { rewalk } from './schema/trace.js';
import type { EntryFill, HypervisorCall, Memslot, Notifier, PageImage, Stimulus } from './stimulus.ts';

const PAGE_BYTES = 4096;
const PAGE_WORDS = 512;

/** By the numbers of the schema's enumerations. */
export const MEMSLOT_CHANGES: readonly Memslot['what'][] = ['create', 'delete', 'move', 'flags'];
export const NOTIFIER_CALLS: readonly Notifier['what'][] = ['unmap', 'set-pte', 'age', 'test-age'];
export const HYPERVISOR_CHANGES: readonly HypervisorCall['what'][] = ['zap-all', 'destroy', 'set-cpuid', 'set-sregs'];

/** Slots of one address space: KVM numbers them with 15 bits. */
export const MAXIMUM_SLOT = 0x7fff;
/** One past the highest physical address that paging can name, in units of 4 GiB. */
const PHYSICAL_END_HI = 0x10_0000;

/** Throws E_LIMIT for what the reader would refuse as too large. */
export function encodeStimulus(stimulus: Stimulus, limits: TraceLimits): Uint8Array {
  const message = rewalk.Stimulus.encode(messageOf(stimulus)).finish();
  withinLimit(limits, 'maxStimulusMessageBytes', message.length, "a stimulus' size");
  return message;
}

function messageOf(stimulus: Stimulus): rewalk.Stimulus.$Properties {
  switch (stimulus.kind) {
    case 'page-image':
      return { pageImage: pageMessage(stimulus) };
    case 'entry-fill': {
      const { address, count, first, increment, size } = stimulus;
      return {
        entryFill: { address: longOf(address), count, first: longOf(first), increment: longOf(increment), size },
      };
    }
    case 'note':
      return { note: { text: stimulus.text } };
    case 'memslot': {
      const { slot, addressSpace, readOnly, dirtyLog } = stimulus;
      const words = { address: longOf(stimulus.address), size: longOf(stimulus.size) };
      const what = MEMSLOT_CHANGES.indexOf(stimulus.what);
      const userspace = longOf(stimulus.userspace);
      return { memslot: { what, slot, addressSpace, ...words, readOnly, dirtyLog, userspace } };
    }
    case 'dirty-log':
      return { dirtyLog: { slot: stimulus.slot } };
    case 'notifier': {
      const what = NOTIFIER_CALLS.indexOf(stimulus.what);
      return { notifier: { what, start: longOf(stimulus.start), end: longOf(stimulus.end) } };
    }
    case 'hypervisor':
      return { hypervisor: { what: HYPERVISOR_CHANGES.indexOf(stimulus.what) } };
  }
}

function pageMessage({ address, words }: PageImage): rewalk.PageImage.$Properties {
  const message = { address: longOf(address), index: [] as number[], word: [] as ReturnType<typeof longOf>[] };
  for (let i = 0; i < PAGE_WORDS; i++) {
    const lo = words[2 * i]!;
    const hi = words[2 * i + 1]!;
    if (lo === 0 && hi === 0) continue;
    message.index.push(i);
    message.word.push(longOf({ lo, hi }));
  }
  return message;
}

/** Bytes of memory that a decoded stimulus takes, roughly. */
export function stimulusBytes(stimulus: Stimulus): number {
  if (stimulus.kind === 'page-image') return PAGE_BYTES;
  return stimulus.kind === 'note' ? 64 + 2 * stimulus.text.length : 128;
}

/** What is wrong with a stimulus, as a sentence; the reader and the writer both ask. */
export function stimulusFault(stimulus: Stimulus, limits: TraceLimits): string | undefined {
  switch (stimulus.kind) {
    case 'page-image':
      if ((stimulus.address.lo & 0xfff) !== 0) return "a page image's address is not 4 KiB aligned";
      return stimulus.words.length === 2 * PAGE_WORDS ? undefined : 'a page image has not 512 words';
    case 'entry-fill':
      if (stimulus.size !== 4 && stimulus.size !== 8) return `an entry fill has entries of ${stimulus.size} bytes`;
      if ((stimulus.address.lo & (stimulus.size - 1)) !== 0)
        return "an entry fill's address is not aligned to its entries";
      withinLimit(limits, 'maxFillEntries', stimulus.count, 'the count of an entry fill');
      return undefined;
    case 'memslot':
      return memslotFault(stimulus);
    case 'dirty-log':
      return slotFault(stimulus.slot);
    case 'notifier': {
      const { start, end } = stimulus;
      const rises = end.hi > start.hi || (end.hi === start.hi && end.lo >= start.lo);
      return rises ? undefined : "a notifier's range ends before it begins";
    }
    case 'note':
    case 'hypervisor':
      return undefined;
  }
}

function slotFault(slot: number): string | undefined {
  return slot <= MAXIMUM_SLOT ? undefined : `there is no memslot ${slot}; the last has number ${MAXIMUM_SLOT}`;
}

function memslotFault({ slot, addressSpace, address, size, userspace }: Memslot): string | undefined {
  if (addressSpace > 1) return `a memslot is in address space ${addressSpace}; there are 0 and 1`;
  if ((address.lo & 0xfff) !== 0) return "a memslot's address is not 4 KiB aligned";
  if ((size.lo & 0xfff) !== 0) return "a memslot's size is no multiple of 4 KiB";
  if ((userspace.lo & 0xfff) !== 0) return "a memslot's host-virtual address is not 4 KiB aligned";
  const carry = address.lo + size.lo > 0xffff_ffff ? 1 : 0;
  const endHi = address.hi + size.hi + carry;
  const beyond = endHi > PHYSICAL_END_HI || (endHi === PHYSICAL_END_HI && (address.lo + size.lo) >>> 0 !== 0);
  return beyond ? 'a memslot reaches beyond the 52 bits of a physical address' : slotFault(slot);
}

function pageOf(message: rewalk.PageImage.$Properties): PageImage {
  const index = message.index ?? [];
  const word = message.word ?? [];
  if (index.length !== word.length) {
    throw new Problem('E_UNSOUND', `a page image has ${index.length} indices and ${word.length} words`);
  }
  const words = new Uint32Array(2 * PAGE_WORDS);
  let least = 0;
  for (const [i, at] of index.entries()) {
    if (at < least || at >= PAGE_WORDS) throw new Problem('E_UNSOUND', `a page image has the index ${at} out of order`);
    least = at + 1;
    words[2 * at] = word[i]!.low;
    words[2 * at + 1] = word[i]!.high;
  }
  return { kind: 'page-image', address: wordOf(message.address), words };
}

function fillOf(message: rewalk.EntryFill.$Properties): EntryFill {
  return {
    kind: 'entry-fill',
    address: wordOf(message.address),
    count: message.count ?? 0,
    first: wordOf(message.first),
    increment: wordOf(message.increment),
    // Whether it is one of the two is asked in `stimulusFault`.
    size: (message.size ?? 0) as 4 | 8,
  };
}

function memslotOf(message: rewalk.Memslot.$Properties): Memslot {
  return {
    kind: 'memslot',
    what: named(MEMSLOT_CHANGES, message.what, 'a memslot'),
    slot: message.slot ?? 0,
    addressSpace: message.addressSpace ?? 0,
    address: wordOf(message.address),
    size: wordOf(message.size),
    readOnly: message.readOnly ?? false,
    dirtyLog: message.dirtyLog ?? false,
    userspace: wordOf(message.userspace),
  };
}

/** `whose`: whose change it is, "a memslot". */
function named<T>(names: readonly T[], number: number | null | undefined, whose: string): T {
  const name = names[number ?? 0];
  if (name !== undefined) return name;
  throw new Problem(
    'E_UNKNOWN_FEATURE',
    `what happens to ${whose} has the number ${number}, which this version does not know`,
    {},
    'use a newer rewalk',
  );
}

/** Throws E_UNSOUND, E_LIMIT or E_UNKNOWN_FEATURE. Nothing of the result refers to `bytes`. */
export function decodeStimulus(bytes: Uint8Array, start: number, end: number, limits: TraceLimits): Stimulus {
  withinLimit(limits, 'maxStimulusMessageBytes', end - start, "a stimulus' size");
  const message = decoded(rewalk.Stimulus, bytes, start, end, 'a stimulus');
  const { pageImage, entryFill, note, memslot, dirtyLog, notifier, hypervisor } = message;
  let stimulus: Stimulus;
  if (pageImage) stimulus = pageOf(pageImage);
  else if (entryFill) stimulus = fillOf(entryFill);
  else if (note) stimulus = { kind: 'note', text: note.text ?? '' };
  else if (memslot) stimulus = memslotOf(memslot);
  else if (dirtyLog) stimulus = { kind: 'dirty-log', slot: dirtyLog.slot ?? 0 };
  else if (notifier) {
    const { start, end } = notifier;
    const what = named(NOTIFIER_CALLS, notifier.what, 'a range of host memory');
    stimulus = { kind: 'notifier', what, start: wordOf(start), end: wordOf(end) };
  } else if (hypervisor) {
    stimulus = { kind: 'hypervisor', what: named(HYPERVISOR_CHANGES, hypervisor.what, 'the hypervisor') };
  } else
    throw new Problem(
      'E_UNKNOWN_FEATURE',
      'a stimulus is of a kind that this version does not know',
      {},
      'use a newer rewalk',
    );
  const fault = stimulusFault(stimulus, limits);
  if (fault !== undefined) throw new Problem('E_UNSOUND', fault);
  return stimulus;
}
