/** What the machine can be told about the recorded processor, out of the trace's header. */

import type { PagingFeatures } from '../paging/configure.ts';
import type { TraceHeader } from '../trace/header.ts';

/** IA32_VMX_EPT_VPID_CAP (SDM vol. 3D A.10). */
const CAP_EXECUTE_ONLY = 1 << 0;
const CAP_2M = 1 << 16;
const CAP_1G = 1 << 17;
const CAP_ADVANCED_INFO = 1 << 22;

export function pagingFeatures(header: TraceHeader): PagingFeatures {
  const { processor } = header;
  const has = (feature: string): boolean => processor.features.includes(feature);
  const cap = processor.eptVpidCap.lo;
  return {
    amd: processor.vendor === 'amd',
    maxphyaddr: processor.maxphyaddr,
    pse36: has('pse36'),
    page1g: has('pdpe1gb'),
    eptExecuteOnly: (cap & CAP_EXECUTE_ONLY) !== 0,
    ept2m: (cap & CAP_2M) !== 0,
    ept1g: (cap & CAP_1G) !== 0,
    eptAdvancedInfo: (cap & CAP_ADVANCED_INFO) !== 0,
  };
}
