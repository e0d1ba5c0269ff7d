/** Judges a walk of KVM's that is through: rights, error code and qualification against its entries, and what it let pass. */

import { CR4_SMEP, Reg } from '../formats/registers.ts';
import { PFEC_PK } from '../paging/access.ts';
import { askedCode } from './explain-asked.ts';
import {
  type Asked,
  eptRightsChecks,
  errorCodeCheck,
  type RightsMode,
  rightsChecks,
  withVerdict,
} from './explain-rules.ts';
import { askedOf, eptMode, type Frame, type SoftwareHints, x86Mode } from './explain-software-frame.ts';
import { roleChecks } from './explain-software-mode.ts';
import type { ExplainedCheck, WalkNode } from './explanation.ts';

const ACCESSED_TOO_EARLY: ExplainedCheck = {
  name: 'accessed',
  rule: 'A and D bits are set when the whole walk has succeeded, and not before',
  citation: 'facts/kvm-mmu.md §5.2',
  outcome: 'fail',
  detail: 'the walk set an accessed bit and failed',
  contradicted: 'an accessed bit was set before the rights were judged, and the walk failed on them',
};

/** Adds to the frame the checks of the whole walk, and marks where it stopped. */
export function judge(frame: Frame, hints: SoftwareHints): void {
  const { walk, failed, checks } = frame;
  const asked = askedOf(frame, hints);
  const denied = failed !== undefined && frame.reachedLeaf;
  if (walk.ept) {
    const mode = eptMode(frame);
    if (frame.reachedLeaf) {
      // Before 7.3 a user access is one that needs R; KVM's own and what the processor reported as a read are.
      const reads = walk.profile === '6.1' && asked.user;
      const what = { ...asked, userPage: asked.user, ofTable: false };
      checks.push(...withVerdict(eptRightsChecks(frame.allLo, what, mode, reads), denied));
    }
    if (failed !== undefined) contradictPresence(frame, (failed.code & 8) !== 0);
    if (failed !== undefined && (failed.code & 8) === 0) checks.push(qualificationCheck(frame, failed.qualification));
  } else {
    const mode = x86Mode(frame);
    if (frame.reachedLeaf) {
      checks.push(...roleChecks(frame, mode));
      checks.push(
        ...withVerdict(
          rightsChecks(frame, asked, mode),
          denied && (failed.code & 1) !== 0,
          ((failed?.code ?? 0) & PFEC_PK) !== 0,
        ),
      );
    }
    if (failed !== undefined) checks.push(...codeChecks(frame, asked, mode, failed.code));
  }
  const lastEntry = frame.nodes.findLastIndex((node) => node.kind !== 'write' && node.kind !== 'address');
  const stop = failed === undefined ? undefined : stoppedBy(frame);
  if (stop !== undefined && lastEntry >= 0) frame.nodes[lastEntry] = { ...frame.nodes[lastEntry]!, stopped: stop };
  if (failed === undefined && frame.entryFailed && !frame.secondFailed) {
    frame.nodes[lastEntry] = withLetThrough(frame.nodes[lastEntry]!);
  }
  if (frame.setAccessed && failed !== undefined && (failed.code & 1) !== 0) checks.push(ACCESSED_TOO_EARLY);
}

function withLetThrough(node: WalkNode): WalkNode {
  const checks = node.checks.map((each) =>
    each.outcome === 'fail' && each.contradicted === undefined
      ? { ...each, contradicted: 'the walk went on all the same' }
      : each,
  );
  return { ...node, checks };
}

function stoppedBy(frame: Frame): string {
  for (const node of frame.nodes) {
    const failing = node.checks.find(({ outcome }) => outcome === 'fail');
    if (failing !== undefined) return failing.name;
  }
  return frame.checks.find(({ outcome }) => outcome === 'fail')?.name ?? 'memslot or rights';
}

/** The last EPT entry fails as absent, and was reported as misconfigured, or the other way round. */
function contradictPresence({ nodes }: Frame, misconfigured: boolean): void {
  const at = nodes.findLastIndex(({ kind }) => kind === 'entry');
  const node = nodes[at];
  const failing = node?.checks.find(({ outcome }) => outcome === 'fail');
  if (node === undefined || (failing === undefined && !misconfigured)) return;
  if (failing?.name === (misconfigured ? 'misconfiguration' : 'present')) return;
  const told = misconfigured
    ? 'the walk counts the entry as present, and as misconfigured'
    : 'the walk counts the entry as absent';
  const name = failing?.name ?? 'misconfiguration';
  const checks = node.checks.map((each) => (each.name === name ? { ...each, contradicted: told } : each));
  nodes[at] = { ...node, checks };
}

/** Bits 5:3 of a nested violation's qualification. */
function qualificationCheck(frame: Frame, qualification: number): ExplainedCheck {
  const rule = 'qualification bits 5:3 are bits 2:0 of all entries ANDed: R, W, X';
  const citation = 'SDM vol. 3C table 28-7; facts/kvm-mmu.md §6.1';
  const expected = frame.allLo & 7;
  const found = (qualification >>> 3) & 7;
  const text = (bits: number): string => bits.toString(2).padStart(3, '0');
  if (found === expected)
    return { name: 'qualification', rule, citation, outcome: 'pass', detail: `bits 5:3 are ${text(found)}` };
  const contradicted = `bits 5:3 of the qualification are ${text(found)}, the entries give ${text(expected)}`;
  return { name: 'qualification', rule, citation, outcome: 'fail', detail: contradicted, contradicted };
}

/** What the error code has to say. */
function codeChecks(frame: Frame, asked: Asked, mode: RightsMode, code: number): ExplainedCheck[] {
  const entry = frame.nodes.findLast((node) => node.kind === 'entry' || node.name === 'PDPTE');
  const failing = entry?.checks.find(({ outcome }) => outcome === 'fail');
  // NPT's own mode: L1's CR4.SMEP has F told, though no entry of NPT is judged by it.
  const smep = frame.walk.ngpa ? (frame.begun.registers[2 * Reg.HOST_CR4]! & CR4_SMEP) !== 0 : mode.smep;
  const bits = askedCode(asked, { ...mode, smep });
  if (failing?.name === 'present') return [errorCodeCheck(code, bits)];
  if (failing?.name === 'reserved') return [errorCodeCheck(code, bits | 9)];
  // No memslot has the table, or the frame that was to be written.
  if ((code & 1) === 0) return [];
  return [errorCodeCheck(code, bits | 1 | (code & PFEC_PK))];
}
