/** The first line of a walk log: which machine was logged, by which emulator with which known faults. */

import { Problem } from '../../bits/problem.ts';
import { parseHex64, word64 } from '../../bits/word64.ts';
import { Obs, obsMask } from '../../formats/observation.ts';
import { FORMAT_VERSION, type Source, type TraceHeader } from '../../trace/header.ts';
import { WRITER } from '../../trace/version.ts';

/** Faults of the logging Bochs by the bit of `fix` that corrects each (walklog/FORMAT.md). */
const FAULTS: readonly (readonly [bit: number, name: string])[] = [
  [0x01, 'bochs-keys-by-non-leaf-entries'],
  [0x02, 'bochs-mbec-qualification-bit-13'],
  [0x04, 'bochs-ept-ad-table-access-without-read'],
  [0x08, 'bochs-ept-large-leaf-bit-12-not-reserved'],
  [0x10, 'bochs-ad-write-back-unchecked'],
  [0x20, 'bochs-npt-depth-by-guest-la57'],
  [0x40, 'bochs-npf-fetch-bit-without-nxe'],
  [0x80, 'bochs-amd-top-level-bit-8-not-reserved'],
];
/** Never corrected. The write-back check is corrected for long mode only. */
const ALWAYS = [
  'bochs-implicit-access-honours-ac',
  'bochs-ept-1g-by-cpuid',
  'bochs-ad-write-back-unchecked-outside-long-mode',
];

const OBSERVABLE = obsMask(
  Obs.ELEMENT,
  Obs.PDPTE,
  Obs.NESTED_WALK,
  Obs.ENTRY_WRITE,
  Obs.TRANSLATED,
  Obs.EXCEPTION,
  Obs.EPT_VIOLATION,
  Obs.EPT_MISCONFIG,
  Obs.NPF,
  Obs.EXIT_LINEAR,
  Obs.PDPTE_LOADED,
  Obs.REGISTER,
);

/** Processor models of the logs that are AMD's; all others are Intel's. */
const AMD_MODELS = ['ryzen'];

/** Parses `H walklog 1 k=v …`. Throws E_IMPORT if it is none. */
export function parseWalklogHeader(line: string, source: Source): TraceHeader {
  const place = { file: source.name, line: 1 };
  const tokens = line.split(' ');
  if (tokens[0] !== 'H' || tokens[1] !== 'walklog') {
    throw new Problem('E_IMPORT', 'this is no walk log: it does not begin with "H walklog"', place);
  }
  if (tokens[2] !== '1') {
    throw new Problem('E_IMPORT', `walk log version ${tokens[2]} is unknown; this version reads 1`, place);
  }
  const fields = new Map(tokens.slice(3).map((token) => token.split('=', 2) as [string, string | undefined]));
  const field = (name: string): string => {
    const value = fields.get(name);
    if (value === undefined) throw new Problem('E_IMPORT', `the header line has no field "${name}"`, place);
    return value;
  };
  const hex = (name: string): { lo: number; hi: number } => {
    const word = parseHex64(field(name));
    if (word === undefined) throw new Problem('E_IMPORT', `field "${name}" is not hexadecimal`, place);
    return word;
  };
  const maxphyaddr = Number(field('maxphy'));
  if (!Number.isInteger(maxphyaddr) || maxphyaddr < 32 || maxphyaddr > 52) {
    throw new Problem('E_IMPORT', `maxphy=${field('maxphy')} is not a physical-address width (32 to 52)`, place);
  }
  const fix = hex('fix').lo;
  const model = field('cpu');
  const features = field('feat')
    .split(',')
    .filter((feature) => feature !== '');
  // The log lists no PSE-36; every model that has PAT has it as well (SDM vol. 3A 4.1.4).
  if (features.includes('pse') && features.includes('pat')) features.push('pse36');
  return {
    formatVersion: FORMAT_VERSION,
    featureFlags: 0,
    recorder: `bochs ${field('bochs')} (walklog 1, fix=${field('fix')})`,
    writer: WRITER,
    title: `page walks of ${source.name.replace(/\.walklog(\.gz)?$/, '')} on ${model}`,
    processor: {
      vendor: AMD_MODELS.includes(model) ? 'amd' : 'intel',
      model,
      maxphyaddr,
      features,
      eptVpidCap: word64(hex('vmx_ept_vpid_cap').lo, hex('vmx_ept_vpid_cap').hi),
      secondaryControlsAllowed: hex('vmx_c2_allowed').lo,
    },
    adPolicy: 'after-permissions',
    observable: OBSERVABLE,
    independent: field('dedup') === '1',
    sources: [source],
    knownFaults: [...FAULTS.filter(([bit]) => (fix & bit) === 0).map(([, name]) => name), ...ALWAYS],
    hypervisor: undefined,
    omissions: [],
  };
}
