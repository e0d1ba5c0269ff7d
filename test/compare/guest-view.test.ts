import { expect, test } from 'vitest';
import { GuestView } from '../../src/compare/guest-view.ts';
import { KVM_EVENT_SHIFT, KvmEvent } from '../../src/formats/kvm-event.ts';
import { Obs } from '../../src/formats/observation.ts';
import { RowLog } from '../../src/paging/row-log.ts';

const EPT_VIOLATION = 48;
const EPT_MISCONFIG = 49;

function exit(code: number, info1: number): GuestView {
  const log = new RowLog();
  log.push(Obs.KVM_EVENT | (KvmEvent.PAGETABLE_WALK << KVM_EVENT_SHIFT), 0x1000, 0, info1, 0);
  log.push(Obs.KVM_EVENT | (KvmEvent.NESTED_VMEXIT_INJECT << KVM_EVENT_SHIFT), 0, 0, info1, 0);
  log.push(Obs.KVM_MORE, code, 0, 0, 0);
  const view = new GuestView();
  view.ofLog(log);
  return view;
}

test('an exit is all of its rows: another reason is another exit', () => {
  const [a, b] = [exit(EPT_VIOLATION, 0x181), exit(EPT_MISCONFIG, 0x181)];
  expect(a.equals(exit(EPT_VIOLATION, 0x181))).toBe(true);
  expect(a.equals(b)).toBe(false);
  expect(a.eventBeside(b)).toMatchObject({ state: 'differs', fields: ['exit_code'] });
  expect(a.eventBeside(exit(EPT_VIOLATION, 0x182))).toMatchObject({ fields: ['exit_info1'] });
  expect(a.text).toBe('nested-vmexit-inject');
});
