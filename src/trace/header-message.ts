/** The header's message and `TraceHeader`, both ways. */

import { Problem } from '../bits/problem.ts';
import { KVM_PROFILES } from '../formats/decode/kvm-role.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { type AdPolicy, FORMAT_VERSION, type TraceHeader, type Vendor } from './header.ts';
import { type TraceLimits, withinLimit } from './limits.ts';
import { countOf, decoded, longOf, longOfCount, wordOf } from './messages.ts';
import { rewalk } from './schema/trace.js';

/** By the numbers of the schema's enumerations. */
export const VENDORS: readonly Vendor[] = ['unknown', 'intel', 'amd'];
export const AD_POLICIES: readonly AdPolicy[] = ['unspecified', 'after-permissions', 'after-translation'];

/** Feature flags that this version understands: none so far. */
const KNOWN_FEATURES = 0;

/** What a processor can have (SDM vol. 3A 4.1.4): fewer bits than 32 or more than 52 do not exist. */
const MAXPHYADDR_MIN = 32;
const MAXPHYADDR_MAX = 52;

export function encodeHeader(header: TraceHeader): Uint8Array {
  const { processor, hypervisor } = header;
  const message: rewalk.Header.$Properties = {
    formatVersion: header.formatVersion,
    featureFlags: header.featureFlags,
    recorder: header.recorder,
    writer: header.writer,
    title: header.title,
    processor: {
      vendor: VENDORS.indexOf(processor.vendor),
      model: processor.model,
      maxphyaddr: processor.maxphyaddr,
      feature: [...processor.features],
      eptVpidCap: longOf(processor.eptVpidCap),
      secondaryControlsAllowed: processor.secondaryControlsAllowed,
    },
    adPolicy: AD_POLICIES.indexOf(header.adPolicy),
    observable: header.observable,
    independent: header.independent,
    source: header.sources.map(({ name, size, sha256 }) => ({ name, size: longOfCount(size), sha256 })),
    knownFault: [...header.knownFaults],
    hypervisor: hypervisor === undefined ? null : hypervisorMessage(hypervisor),
    omission: header.omissions.map(({ what, count }) => ({ what, count: longOfCount(count) })),
    unknown: [...(header.unknown ?? [])],
  };
  return rewalk.Header.encode(message).finish();
}

function hypervisorMessage(hypervisor: NonNullable<TraceHeader['hypervisor']>): rewalk.Hypervisor.$Properties {
  const { name, version, tdp, parameters, mmu } = hypervisor;
  return { name, version, tdp, parameter: [...parameters], mmu: mmu === undefined ? null : mmuMessage(mmu) };
}

function mmuMessage(mmu: KvmConfig): rewalk.Mmu.$Properties {
  return { ...mmu, profile: KVM_PROFILES.indexOf(mmu.profile), vendor: VENDORS.indexOf(mmu.vendor) };
}

function mmuOf(properties: rewalk.Mmu.$Properties): KvmConfig {
  // What is absent stands in the message's prototype: fields are read one by one.
  const message = rewalk.Mmu.create(properties);
  return {
    profile: nameOf(KVM_PROFILES, message.profile, 'KVM generation'),
    // Whether vendor and levels are what they may be is asked in `mmuFault`.
    vendor: nameOf(VENDORS, message.vendor, 'host vendor') as KvmConfig['vendor'],
    tdp: message.tdp,
    tdpMmu: message.tdpMmu,
    tdpLevel: message.tdpLevel as KvmConfig['tdpLevel'],
    hostMaxphyaddr: message.hostMaxphyaddr,
    eptAd: message.eptAd,
    pml: message.pml,
    maxLevel: message.maxLevel as KvmConfig['maxLevel'],
    nxHugePages: message.nxHugePages,
    mmioCaching: message.mmioCaching,
    eagerPageSplit: message.eagerPageSplit,
    l1tfBits: message.l1tfBits,
  };
}

/** What is wrong with the configuration of an MMU, as the rest of a sentence that begins with "the header gives". */
function mmuFault(mmu: KvmConfig): string | undefined {
  const { vendor, tdpLevel, hostMaxphyaddr, maxLevel, l1tfBits } = mmu;
  const width = `${MAXPHYADDR_MIN} to ${MAXPHYADDR_MAX}`;
  if (vendor !== 'amd' && vendor !== 'intel') return `host vendor '${vendor as string}'; it is amd or intel`;
  if (tdpLevel !== 4 && tdpLevel !== 5) return `TDP level ${tdpLevel as number}; it is 4 or 5`;
  if (!isWidth(hostMaxphyaddr)) return `host MAXPHYADDR ${hostMaxphyaddr}; it is ${width}`;
  if (maxLevel !== 1 && maxLevel !== 2 && maxLevel !== 3) return `page level ${maxLevel as number}; it is 1, 2 or 3`;
  if (!(l1tfBits < MAXPHYADDR_MAX)) return `L1TF bits from bit ${l1tfBits}; SPTEs have addresses up to bit 51`;
  return undefined;
}

function isWidth(bits: number): boolean {
  return bits >= MAXPHYADDR_MIN && bits <= MAXPHYADDR_MAX;
}

/** Is this file for this version of rewalk at all? Asked before anything else of the header is believed. */
function checkVersion(version: number, features: number): void {
  if (version > FORMAT_VERSION) {
    throw new Problem(
      'E_NEWER_VERSION',
      `the file has format version ${version}; this rewalk reads up to ${FORMAT_VERSION}`,
      {},
      'use a newer rewalk',
    );
  }
  if (version === 0) throw new Problem('E_UNSOUND', 'the header gives no format version');
  const unknown = (features & ~KNOWN_FEATURES) >>> 0;
  if (unknown === 0) return;
  throw new Problem(
    'E_UNKNOWN_FEATURE',
    `the file needs features that this version does not know (flags 0x${unknown.toString(16)})`,
    {},
    'use a newer rewalk',
  );
}

function nameOf<T>(names: readonly T[], number: number, what: string): T {
  const name = names[number];
  if (name !== undefined) return name;
  throw new Problem('E_UNKNOWN_FEATURE', `the header gives ${what} ${number}, which this version does not know`);
}

/** Throws a problem if a header says what no reader may believe; the writer asks this too. */
export function checkHeader(header: TraceHeader, limits: TraceLimits): void {
  checkVersion(header.formatVersion, header.featureFlags);
  const { maxphyaddr, features } = header.processor;
  if (!isWidth(maxphyaddr)) {
    throw new Problem(
      'E_UNSOUND',
      `the header gives MAXPHYADDR ${maxphyaddr}; it is ${MAXPHYADDR_MIN} to ${MAXPHYADDR_MAX}`,
    );
  }
  const mmu = header.hypervisor?.mmu;
  const fault = mmu && mmuFault(mmu);
  if (fault !== undefined) throw new Problem('E_UNSOUND', `the header gives ${fault}`);
  const { sources, knownFaults, omissions, unknown = [] } = header;
  const lists = [features, sources, knownFaults, omissions, unknown, header.hypervisor?.parameters ?? []];
  for (const list of lists) withinLimit(limits, 'maxHeaderEntries', list.length, 'the length of a list in the header');
  for (const { name, sha256 } of header.sources) {
    if (sha256.length !== 0 && sha256.length !== 32) {
      throw new Problem('E_UNSOUND', `the SHA-256 of source '${name}' has ${sha256.length} bytes instead of 32`);
    }
  }
}

/** Throws E_NEWER_VERSION, E_UNKNOWN_FEATURE, E_UNSOUND or E_LIMIT. Strings and bytes are copies. */
export function decodeHeader(bytes: Uint8Array, start: number, end: number, limits: TraceLimits): TraceHeader {
  withinLimit(limits, 'maxHeaderBytes', end - start, "the header's size");
  const message = decoded(rewalk.Header, bytes, start, end, 'the header');
  checkVersion(message.formatVersion, message.featureFlags);
  const processor = rewalk.Processor.create(message.processor ?? {});
  const hypervisor = message.hypervisor ? rewalk.Hypervisor.create(message.hypervisor) : undefined;
  const header: TraceHeader = {
    formatVersion: message.formatVersion,
    featureFlags: message.featureFlags,
    recorder: message.recorder,
    writer: message.writer,
    title: message.title,
    processor: {
      vendor: nameOf(VENDORS, processor.vendor, 'vendor'),
      model: processor.model,
      maxphyaddr: processor.maxphyaddr,
      features: processor.feature,
      eptVpidCap: wordOf(processor.eptVpidCap),
      secondaryControlsAllowed: processor.secondaryControlsAllowed,
    },
    adPolicy: nameOf(AD_POLICIES, message.adPolicy, 'A/D policy'),
    observable: message.observable,
    independent: message.independent,
    sources: message.source.map((source) => ({
      name: source.name ?? '',
      size: countOf(source.size, "a source's size"),
      // The generated code hands out a view of the reader's buffer, which the next chunk overwrites.
      sha256: Uint8Array.from(source.sha256 ?? []),
    })),
    knownFaults: message.knownFault,
    hypervisor: hypervisor && {
      name: hypervisor.name,
      version: hypervisor.version,
      tdp: hypervisor.tdp,
      parameters: hypervisor.parameter,
      mmu: hypervisor.mmu ? mmuOf(hypervisor.mmu) : undefined,
    },
    omissions: message.omission.map(({ what, count }) => ({ what: what ?? '', count: countOf(count, 'an omission') })),
    ...(message.unknown.length === 0 ? {} : { unknown: message.unknown }),
  };
  checkHeader(header, limits);
  return header;
}
