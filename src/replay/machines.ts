/** Which machine replays a trace: the bare processor, or one with an emulated KVM below it, and how that is set up. */

import { Problem } from '../bits/problem.ts';
import type { KvmProfile } from '../formats/decode/kvm-role.ts';
import { defaultKvmConfig, type KvmConfig } from '../formats/kvm-config.ts';
import { BareMachine } from '../machine/bare.ts';
import { KvmMachine, type KvmMachineOptions } from '../machine/kvm/machine.ts';
import type { KvmView, Machine } from '../machine/machine.ts';
import { MUTANTS } from '../mmu/mutants.ts';
import { defaultWiring, type WiringName } from '../mmu/wiring.ts';
import { isKvmRecording, type TraceHeader } from '../trace/header.ts';
import { notTold } from './events.ts';
import type { MachineFacts } from './result.ts';
import { SameGuest } from './same-guest.ts';

export type MachineName = 'bare' | 'kvm';

/** What the user asked for; what is undefined is as the trace says. */
export interface MachineChoice {
  readonly machine?: MachineName | undefined;
  readonly profile?: KvmProfile | undefined;
  /** Two-dimensional paging; false: shadow paging. */
  readonly tdp?: boolean | undefined;
  readonly tdpMmu?: boolean | undefined;
  /** How the walks of guest and second stage are wired to each other; by default as the profile's kernel does it. */
  readonly wiring?: WiringName | undefined;
  /** Historical bugs to put in, by number (`mmu/mutants.ts`). */
  readonly mutants?: readonly number[] | undefined;
  /** Check the invariants of KVM's tables after every step. */
  readonly checkInvariants?: boolean | undefined;
}

/** Makes the machine with an emulated KVM. */
export type KvmMachineMaker = (header: TraceHeader, config: KvmConfig, options: KvmMachineOptions) => Machine;

const kvmMachine: KvmMachineMaker = (header, config, options) => new KvmMachine(header, config, options);

export interface ChosenMachine {
  readonly machine: Machine;
  /** The machine again if it is a bare processor, whose staleness can be judged. */
  readonly bare: BareMachine | null;
  /** The comparison with a guest on KVM, if it is that. */
  readonly same: SameGuest | null;
  /** What the invariants of KVM's tables have found so far, if they are checked. */
  readonly findings: KvmView['invariantFindings'];
  /** For the receipt: `bare`; `kvm 6.1, NPT, TDP MMU`, and what was recorded where that is something else. */
  readonly description: string;
  /** What this machine cannot see of the recording, in sentences. */
  readonly limits: readonly string[];
  /** Leaves the memory to machines made later: for those who make thousands. It must not be used afterwards. */
  release(): void;
}

function releasing(...machines: readonly Machine[]): () => void {
  return () => {
    for (const machine of machines) {
      if (machine instanceof KvmMachine) machine.host.memory.release();
      else if (machine instanceof BareMachine) machine.memory.release();
    }
  };
}

/** The options that a choice makes use of: `--profile and --tdp`. */
function kvmOptions({ profile, tdp, tdpMmu, wiring, mutants = [], checkInvariants }: MachineChoice): string {
  const given = [
    profile === undefined ? '' : '--profile',
    tdp === undefined ? '' : '--tdp',
    tdpMmu === undefined ? '' : '--tdp-mmu',
    wiring === undefined ? '' : '--wiring',
    mutants.length === 0 ? '' : '--mutant',
    checkInvariants === true ? '--check-invariants' : '',
  ];
  return given.filter((option) => option !== '').join(' and ');
}

/** `, with m01-inherited-permissions`: what the receipt must say of a machine that is wrong on purpose. */
function mutantText({ mutants = [] }: MachineChoice): string {
  const names = MUTANTS.filter(({ number }) => mutants.includes(number)).map(({ name }) => name);
  return names.length === 0 ? '' : `, with ${names.join(' and ')}`;
}

/** `, wired as gva-walk` if that is not the profile's own wiring. */
function wiringText({ wiring }: MachineChoice, { profile }: KvmConfig): string {
  return wiring === undefined || wiring === defaultWiring(profile) ? '' : `, wired as ${wiring}`;
}

/** Throws E_USAGE for a choice that fits no trace at all. */
export function checkChoice(choice: MachineChoice): void {
  const options = kvmOptions(choice);
  if (choice.machine === 'bare' && options !== '') {
    throw new Problem('E_USAGE', `--machine bare has no KVM below it: ${options} cannot apply`);
  }
  if (choice.tdp === false && choice.tdpMmu === true) {
    throw new Problem('E_USAGE', '--tdp off and --tdp-mmu on exclude each other: without TDP there is no TDP MMU');
  }
}

/** The emulated KVM's configuration: what was recorded, changed by what was asked for; of a bare processor's trace a usual host's. */
export function kvmConfigFor(header: TraceHeader, choice: MachineChoice): KvmConfig {
  const { vendor } = header.processor;
  const recorded =
    header.hypervisor?.mmu ??
    defaultKvmConfig(vendor === 'intel' ? { vendor: 'intel', pml: false } : { vendor: 'amd', tdpLevel: 5 });
  const tdp = choice.tdp ?? recorded.tdp;
  return {
    ...recorded,
    profile: choice.profile ?? recorded.profile,
    tdp,
    tdpMmu: tdp && (choice.tdpMmu ?? recorded.tdpMmu),
  };
}

/** Which machine `machineFor` makes, as data; without making it and without checking the choice. */
export function machineFacts(header: TraceHeader, choice: MachineChoice): MachineFacts {
  const name = choice.machine ?? (isKvmRecording(header) ? 'kvm' : 'bare');
  if (name === 'bare') return { name, config: undefined, wiring: undefined, mutants: [] };
  const config = kvmConfigFor(header, choice);
  const { mutants = [] } = choice;
  return {
    name,
    config,
    wiring: choice.wiring ?? defaultWiring(config.profile),
    mutants: MUTANTS.filter(({ number }) => mutants.includes(number)).map((mutant) => mutant.name),
  };
}

function configText({ profile, vendor, tdp, tdpMmu, eptAd }: KvmConfig): string {
  if (!tdp) return `${profile}, shadow paging`;
  const tables = vendor === 'amd' ? 'NPT' : eptAd ? 'EPT' : 'EPT without A/D bits';
  return `${profile}, ${tables}, ${tdpMmu ? 'TDP MMU' : 'legacy direct MMU'}`;
}

/** The machine for a trace. Throws E_USAGE if the choice does not fit the trace. */
export function machineFor(header: TraceHeader, choice: MachineChoice, makeKvm = kvmMachine): ChosenMachine {
  checkChoice(choice);
  const recorded = header.hypervisor?.mmu;
  const ofKvm = isKvmRecording(header);
  const name = choice.machine ?? (ofKvm ? 'kvm' : 'bare');
  if (name === 'bare') {
    const options = kvmOptions(choice);
    if (options !== '') {
      throw new Problem(
        'E_USAGE',
        `${options}: the trace is no recording of a KVM and is replayed on a bare processor`,
        {},
        'add --machine kvm to put an emulated KVM below it',
      );
    }
    const machine = new BareMachine(header);
    const limits = ofKvm ? ["KVM's events are not compared: a bare processor has none"] : [];
    const release = releasing(machine);
    return { machine, bare: machine, same: null, findings: [], description: 'bare', limits, release };
  }
  const config = kvmConfigFor(header, choice);
  const [now, then] = [configText(config), recorded === undefined ? undefined : configText(recorded)];
  const limits = ofKvm ? notTold(header) : ["KVM's events are not compared: the trace has none"];
  const difference = then === undefined || then === now ? '' : ` (recorded: ${then})`;
  const kvm = makeKvm(header, config, {
    wiring: choice.wiring ?? defaultWiring(config.profile),
    mutants: choice.mutants ?? [],
    checkInvariants: choice.checkInvariants === true,
  });
  const findings = kvm.kvm?.invariantFindings ?? [];
  const description = `kvm ${now}${wiringText(choice, config)}${difference}${mutantText(choice)}`;
  if (ofKvm) return { machine: kvm, bare: null, same: null, findings, description, limits, release: releasing(kvm) };
  const same = new SameGuest(header, kvm, config);
  const release = releasing(kvm, same.bare);
  return { machine: same, bare: same.bare, same, findings, description, limits, release };
}
