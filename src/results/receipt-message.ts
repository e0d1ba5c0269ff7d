/** A receipt and its message, both ways. */

import { Problem } from '../bits/problem.ts';
import type { KindCount } from '../replay/counters.ts';
import type { EventCount } from '../replay/event-counters.ts';
import type { GuestComparison, Receipt } from '../replay/result.ts';
import { countOf, longOfCount } from '../trace/messages.ts';
import type { VerdictGroup } from './model.ts';
import { ENDINGS, nameOf } from './names.ts';
import type { rewalk } from './schema/results.js';

type ReceiptMessage = rewalk.results.Receipt.$Properties;
type CountMessage = rewalk.results.Count.$Properties;
type Counts = Readonly<Record<string, number>>;
type Long = Parameters<typeof countOf>[0];

const number = (value: Long): number => countOf(value, 'a count');

function encodeCounts(counts: Counts): CountMessage[] {
  return Object.entries(counts).map(([name, count]) => ({ name, count: longOfCount(count) }));
}

function decodeCounts(messages: readonly CountMessage[] | null | undefined): Record<string, number> {
  // `fromEntries` defines, so that not even a name like __proto__ does anything else.
  return Object.fromEntries((messages ?? []).map(({ name, count }) => [name ?? '', number(count)]));
}

/** The members of a message or of our own type that are plain counts. */
function pick<K extends string>(from: { readonly [key in K]?: Long }, keys: readonly K[]): Record<K, number> {
  return Object.fromEntries(keys.map((key) => [key, number(from[key])])) as Record<K, number>;
}

function longs<K extends string>(from: Readonly<Record<K, number>>, keys: readonly K[]) {
  return Object.fromEntries(keys.map((key) => [key, longOfCount(from[key])])) as Record<
    K,
    ReturnType<typeof longOfCount>
  >;
}

const FIELD_KEYS = ['predicted', 'renamed', 'learned', 'input', 'diverged'] as const;
const KIND_KEYS = ['observations', 'whollyPredicted', 'predicted', 'renamed', 'learned', 'input'] as const;
const EVENT_KEYS = [
  'events',
  'whollyPredicted',
  'predicted',
  'renamed',
  'learned',
  'input',
  'diverged',
  'missing',
  'extra',
  'notModelled',
  'unanswered',
] as const;
const GUEST_KEYS = [
  'accesses',
  'equal',
  'asBare',
  'stale',
  'undetermined',
  'entries',
  'staleEntries',
  'questions',
  'registerWrites',
  'words',
  'wordsInAd',
  'unexplained',
] as const;
const RECEIPT_KEYS = ['steps', 'observationsPredicted', 'staleAllowed', 'undetermined', 'diverged'] as const;

function encodeEvent(count: EventCount): rewalk.results.EventCount.$Properties {
  return {
    event: count.event,
    ...longs(count, EVENT_KEYS),
    ...(count.notJudged === undefined ? {} : { notJudged: longOfCount(count.notJudged) }),
    field: count.fields.map((field) => ({ field: field.field, ...longs(field, FIELD_KEYS) })),
  };
}

function decodeEvent(message: rewalk.results.EventCount.$Properties): EventCount {
  return {
    event: message.event ?? '',
    ...pick(message, EVENT_KEYS),
    ...(message.notJudged === undefined || message.notJudged === null ? {} : { notJudged: number(message.notJudged) }),
    fields: (message.field ?? []).map((field) => ({ field: field.field ?? '', ...pick(field, FIELD_KEYS) })),
  };
}

function encodeGuest(guest: GuestComparison): rewalk.results.SameGuest.$Properties {
  return {
    ...longs(guest, GUEST_KEYS),
    legal: guest.legal.map(({ count, ...entry }) => ({ ...entry, count: longOfCount(count) })),
  };
}

function decodeGuest(message: rewalk.results.SameGuest.$Properties, groups: readonly VerdictGroup[]): GuestComparison {
  return {
    ...pick(message, GUEST_KEYS),
    legal: (message.legal ?? []).map((entry) => ({
      number: entry.number ?? 0,
      name: entry.name ?? '',
      citation: entry.citation ?? '',
      sentence: entry.sentence ?? '',
      count: number(entry.count),
    })),
    groups: groups
      .filter(({ judgement }) => judgement === 'guest-differs')
      .map(({ group, count, first }) => ({ group, count, first })),
  };
}

/** `maxInvariants`: of the broken ones the first so many. */
export function encodeReceipt(receipt: Receipt, maxInvariants: number): ReceiptMessage {
  const { digest, partial, sameGuest, brokenInvariants } = receipt;
  return {
    title: receipt.title,
    recorder: receipt.recorder,
    policy: receipt.policy,
    limit: [...receipt.limits],
    digest: Buffer.from(digest ?? '', 'hex'),
    ending: ENDINGS.indexOf(receipt.ending),
    ...longs(receipt, RECEIPT_KEYS),
    stepsByKind: encodeCounts(receipt.stepsByKind),
    observation: receipt.counts.map((count) => ({ kind: count.kind, ...longs(count, KIND_KEYS) })),
    event: receipt.events.map(encodeEvent),
    skipped: encodeCounts(receipt.skipped),
    notModelled: encodeCounts(receipt.notModelled),
    expected: encodeCounts(receipt.expected),
    brokenExpectation: [...receipt.brokenExpectations],
    expectationOutcome: (receipt.expectationOutcomes ?? []).map(({ fault, group, expected, met }) => ({
      fault,
      group,
      ...longs({ expected, met }, ['expected', 'met']),
    })),
    brokenInvariant: brokenInvariants
      .slice(0, maxInvariants)
      .map(({ step, sentence }) => ({ step: longOfCount(step), sentence })),
    brokenInvariantCount: longOfCount(brokenInvariants.length),
    unknown: [...(partial?.unknown ?? [])],
    undeterminedBy: encodeCounts(partial?.undetermined ?? {}),
    ...(sameGuest === undefined ? {} : { sameGuest: encodeGuest(sameGuest) }),
  };
}

/** What a receipt has that is not in its message but in the one around it. */
export interface Around {
  readonly file: string;
  readonly machine: string;
  readonly groups: readonly VerdictGroup[];
}

/** Throws E_UNSOUND. */
export function decodeReceipt(message: ReceiptMessage, { file, machine, groups }: Around): Receipt {
  const digest = message.digest ?? new Uint8Array(0);
  if (digest.length !== 0 && digest.length !== 32) throw new Problem('E_UNSOUND', "a trace's digest has not 32 bytes");
  const unknown = message.unknown ?? [];
  const outcomes = message.expectationOutcome ?? [];
  return {
    file,
    machine,
    title: message.title ?? '',
    recorder: message.recorder ?? '',
    policy: message.policy ?? '',
    limits: message.limit ?? [],
    digest: digest.length === 0 ? undefined : Buffer.from(digest).toString('hex'),
    ending: nameOf(ENDINGS, message.ending, 'an ending'),
    ...pick(message, RECEIPT_KEYS),
    stepsByKind: decodeCounts(message.stepsByKind),
    counts: (message.observation ?? []).map(
      (count): KindCount => ({ kind: count.kind ?? '', ...pick(count, KIND_KEYS) }),
    ),
    events: (message.event ?? []).map(decodeEvent),
    skipped: decodeCounts(message.skipped),
    notModelled: decodeCounts(message.notModelled),
    expected: decodeCounts(message.expected),
    groups: groups
      .filter(({ judgement }) => judgement === 'diverged' || judgement === 'stale-after-invalidation')
      .map(({ group, count, first, leads }) => ({ group, count, first, leads })),
    brokenExpectations: message.brokenExpectation ?? [],
    ...(outcomes.length === 0
      ? {}
      : {
          expectationOutcomes: outcomes.map(({ fault, group, expected, met }) => ({
            fault: fault ?? '',
            group: group ?? '',
            expected: number(expected),
            met: number(met),
          })),
        }),
    brokenInvariants: (message.brokenInvariant ?? []).map(({ step, sentence }) => ({
      step: number(step),
      sentence: sentence ?? '',
    })),
    ...(unknown.length === 0 ? {} : { partial: { unknown, undetermined: decodeCounts(message.undeterminedBy) } }),
    ...(message.sameGuest ? { sameGuest: decodeGuest(message.sameGuest, groups) } : {}),
  };
}
