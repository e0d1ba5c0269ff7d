/** The header line and the state lines of the text form, both ways. */

import type { Word64 } from '../../bits/word64.ts';
import { wordText } from '../../bits/word64.ts';
import { KVM_PROFILES } from '../../formats/decode/kvm-role.ts';
import { defaultKvmConfig, type KvmConfig } from '../../formats/kvm-config.ts';
import { OBS_NAMES, Obs, obsMask } from '../../formats/observation.ts';
import { REGISTER_COUNT, REGISTER_NAMES } from '../../formats/registers.ts';
import { MAXIMUM_VCPUS } from '../../formats/step.ts';
import type { StepColumns, VcpuRegisters } from '../columns.ts';
import { FORMAT_VERSION, type Hypervisor, type Processor, type Source, type TraceHeader } from '../header.ts';
import { AD_POLICIES, VENDORS } from '../header-message.ts';
import { parseName, parseWord, shown, suggestion, textProblem } from './fields.ts';
import { asObject, asText, ObjectReader } from './objects.ts';
import type { ReadObject, TextObject } from './rows.ts';

/**
 * What a header without `observable` means: outcomes are compared, the elements on the way to them are not, so that a
 * case written by hand need not spell out its walks. What is in this mask can never change.
 */
const USUAL_OBSERVABLE = obsMask(
  Obs.TRANSLATED,
  Obs.COMPLETED,
  Obs.FAULTED,
  Obs.EXCEPTION,
  Obs.EPT_VIOLATION,
  Obs.EPT_MISCONFIG,
  Obs.NPF,
);

const USUAL_MAXPHYADDR = 52;
const USUAL_MMU = defaultKvmConfig();
const HOST_VENDORS = ['amd', 'intel'] as const;

/** Leaves out what is empty, so that only what was said remains. */
function withoutEmpty(object: Record<string, unknown>): TextObject {
  const kept = Object.entries(object).filter(([, value]) => {
    if (value === undefined || value === '' || value === false || value === 0 || value === '0x0') return false;
    return !Array.isArray(value) || value.length > 0;
  });
  return Object.fromEntries(kept) as TextObject;
}

function maskNames(mask: number): (string | number)[] {
  const bits = Array.from({ length: 32 }, (_, bit) => bit);
  return bits.filter((bit) => (mask & (1 << bit)) !== 0).map((bit) => OBS_NAMES[bit] ?? bit);
}

export function headerObject(header: TraceHeader): TextObject {
  const { processor, hypervisor } = header;
  const object = withoutEmpty({
    recorder: header.recorder,
    writer: header.writer,
    title: header.title,
    featureFlags: wordText({ lo: header.featureFlags, hi: 0 }),
    processor: withoutEmpty({
      vendor: processor.vendor === 'unknown' ? '' : processor.vendor,
      model: processor.model,
      maxphyaddr: processor.maxphyaddr === USUAL_MAXPHYADDR ? 0 : processor.maxphyaddr,
      features: processor.features,
      eptVpidCap: wordText(processor.eptVpidCap),
      secondaryControlsAllowed: wordText({ lo: processor.secondaryControlsAllowed, hi: 0 }),
    }),
    adPolicy: header.adPolicy === 'unspecified' ? '' : header.adPolicy,
    independent: header.independent,
    sources: header.sources.map(({ name, size, sha256 }) =>
      withoutEmpty({ name, size, sha256: Buffer.from(sha256).toString('hex') }),
    ),
    knownFaults: header.knownFaults,
    hypervisor: hypervisor && withoutEmpty({ ...hypervisor, mmu: hypervisor.mmu && mmuObject(hypervisor.mmu) }),
    omissions: header.omissions.map(({ what, count }) => ({ what, count })),
    unknown: header.unknown ?? [],
  });
  // Said even when nothing is observable, which is not what leaving it out means.
  if (header.observable !== USUAL_OBSERVABLE) object['observable'] = maskNames(header.observable) as never;
  return { header: object };
}

/** The configuration where it is not the usual one. */
function mmuObject(mmu: KvmConfig): TextObject {
  const usual: Record<string, unknown> = { ...USUAL_MMU };
  return Object.fromEntries(Object.entries(mmu).filter(([name, value]) => value !== usual[name]));
}

function parseMask(names: readonly unknown[]): number {
  return names.reduce<number>((mask, name) => (mask | (1 << parseName('observable', name, OBS_NAMES, 31))) >>> 0, 0);
}

function parseProcessor(name: string, value: unknown): Processor {
  const reader = new ObjectReader(asObject(name, value), "the header's processor");
  const processor: Processor = {
    vendor: VENDORS[reader.named('vendor', VENDORS)]!,
    model: reader.text('model'),
    maxphyaddr: reader.number('maxphyaddr', USUAL_MAXPHYADDR, 52),
    features: reader.list('features', asText),
    eptVpidCap: reader.word('eptVpidCap'),
    secondaryControlsAllowed: reader.word32('secondaryControlsAllowed'),
  };
  reader.end();
  return processor;
}

function parseSha256(name: string, value: unknown): Uint8Array {
  if (typeof value === 'string' && /^[0-9a-f]{64}$/i.test(value)) return Uint8Array.from(Buffer.from(value, 'hex'));
  throw textProblem(`'${name}' is ${shown(value)}, but 64 hexadecimal digits are due`);
}

function parseSource(name: string, value: unknown): Source {
  const reader = new ObjectReader(asObject(name, value), "one of the header's sources");
  const source: Source = {
    name: reader.text('name'),
    size: reader.number('size', 0, Number.MAX_SAFE_INTEGER),
    sha256: reader.optional('sha256', parseSha256) ?? new Uint8Array(0),
  };
  reader.end();
  return source;
}

function parseMmu(name: string, value: unknown): KvmConfig {
  const reader = new ObjectReader(asObject(name, value), "the hypervisor's MMU");
  const usual = USUAL_MMU;
  const mmu: KvmConfig = {
    profile: KVM_PROFILES[reader.named('profile', KVM_PROFILES, KVM_PROFILES.indexOf(usual.profile))]!,
    vendor: HOST_VENDORS[reader.named('vendor', HOST_VENDORS, HOST_VENDORS.indexOf(usual.vendor))]!,
    tdp: reader.truth('tdp', usual.tdp),
    tdpMmu: reader.truth('tdpMmu', usual.tdpMmu),
    // Whether the numbers are what they may be is asked with everything else about headers.
    tdpLevel: reader.number('tdpLevel', usual.tdpLevel, 5) as KvmConfig['tdpLevel'],
    hostMaxphyaddr: reader.number('hostMaxphyaddr', usual.hostMaxphyaddr, 52),
    eptAd: reader.truth('eptAd', usual.eptAd),
    pml: reader.truth('pml', usual.pml),
    maxLevel: reader.number('maxLevel', usual.maxLevel, 3) as KvmConfig['maxLevel'],
    nxHugePages: reader.truth('nxHugePages', usual.nxHugePages),
    mmioCaching: reader.truth('mmioCaching', usual.mmioCaching),
    eagerPageSplit: reader.truth('eagerPageSplit', usual.eagerPageSplit),
    l1tfBits: reader.number('l1tfBits', usual.l1tfBits, 51),
  };
  reader.end();
  return mmu;
}

function parseHypervisor(name: string, value: unknown): Hypervisor {
  const reader = new ObjectReader(asObject(name, value), "the header's hypervisor");
  const hypervisor: Hypervisor = {
    name: reader.text('name'),
    version: reader.text('version'),
    tdp: reader.truth('tdp'),
    parameters: reader.list('parameters', asText),
    mmu: reader.optional('mmu', parseMmu),
  };
  reader.end();
  return hypervisor;
}

function parseOmission(name: string, value: unknown): { what: string; count: number } {
  const reader = new ObjectReader(asObject(name, value), "one of the header's omissions");
  const omission = { what: reader.text('what'), count: reader.number('count', 0, Number.MAX_SAFE_INTEGER) };
  reader.end();
  return omission;
}

/** `value`: what the key `header` holds. Throws E_TEXT_FORM. */
export function parseHeader(value: unknown): TraceHeader {
  const reader = new ObjectReader(asObject('header', value), 'the header');
  const header: TraceHeader = {
    formatVersion: FORMAT_VERSION,
    featureFlags: reader.word32('featureFlags'),
    recorder: reader.text('recorder'),
    writer: reader.text('writer'),
    title: reader.text('title'),
    processor: reader.optional('processor', parseProcessor) ?? parseProcessor('processor', {}),
    adPolicy: AD_POLICIES[reader.named('adPolicy', AD_POLICIES)]!,
    observable: reader.optional('observable', (name, names) => parseMask(listOf(name, names))) ?? USUAL_OBSERVABLE,
    independent: reader.truth('independent'),
    sources: reader.list('sources', parseSource),
    knownFaults: reader.list('knownFaults', asText),
    hypervisor: reader.optional('hypervisor', parseHypervisor),
    omissions: reader.list('omissions', parseOmission),
  };
  const unknown = reader.list('unknown', asText);
  if (unknown.length > 0) header.unknown = unknown;
  reader.end();
  return header;
}

function listOf(name: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw textProblem(`'${name}' is ${shown(value)}, but a list of kinds of observation is due`);
}

/** What a chunk begins with, as a state line tells it. */
export type ChunkState = Pick<StepColumns, 'registers' | 'source' | 'vcpu' | 'others'>;

/** The registers that are not zero. */
function registersObject(registers: Uint32Array): TextObject {
  const object: TextObject = {};
  for (const [register, name] of REGISTER_NAMES.entries()) {
    const word: Word64 = { lo: registers[2 * register]!, hi: registers[2 * register + 1]! };
    if (word.lo !== 0 || word.hi !== 0) object[name] = wordText(word);
  }
  return object;
}

function parseRegisters(what: string, value: unknown): Uint32Array {
  const registers = new Uint32Array(2 * REGISTER_COUNT);
  for (const [name, word] of Object.entries(asObject(what, value))) {
    const register = REGISTER_NAMES.indexOf(name);
    if (register < 0) throw textProblem(`'${name}' is no register${suggestion(name, REGISTER_NAMES)}`);
    const { lo, hi } = parseWord(name, word);
    registers[2 * register] = lo;
    registers[2 * register + 1] = hi;
  }
  return registers;
}

/** A state line; what is usual is left out. */
export function stateObject({ registers, source, vcpu, others }: ChunkState): TextObject {
  const line: TextObject = { state: registersObject(registers) };
  if (vcpu !== 0) line['vcpu'] = vcpu;
  if (others.length > 0) {
    line['others'] = Object.fromEntries(others.map((each) => [each.vcpu, registersObject(each.registers)]));
  }
  if (source !== 0) line['source'] = source;
  return line;
}

/** Other vCPUs by number. Throws E_TEXT_FORM. */
function parseOthers(name: string, value: unknown): VcpuRegisters[] {
  return Object.entries(asObject(name, value))
    .map(([key, registers]) => {
      const vcpu = /^(0|[1-9]\d?)$/.test(key) ? Number(key) : MAXIMUM_VCPUS;
      if (vcpu >= MAXIMUM_VCPUS) throw textProblem(`'${key}' is no vCPU: they are 0 to ${MAXIMUM_VCPUS - 1}`);
      return { vcpu, registers: parseRegisters(key, registers) };
    })
    .sort((a, b) => a.vcpu - b.vcpu);
}

/** A whole state line. Throws E_TEXT_FORM. */
export function parseState(object: ReadObject): ChunkState {
  const registers = parseRegisters('state', object['state']);
  const reader = new ObjectReader(object, 'a state line');
  reader.optional('state', () => true);
  const vcpu = reader.number('vcpu', 0, MAXIMUM_VCPUS - 1);
  const others = reader.optional('others', parseOthers) ?? [];
  if (others.some((each) => each.vcpu === vcpu)) throw textProblem(`'others' has vCPU ${vcpu}, whose state is 'state'`);
  const source = reader.number('source', 0, 0xffff_ffff);
  reader.end();
  return { registers, source, vcpu, others };
}
