/** The option that lets runs pass though they met what is not modelled, the same wherever machines run. */

import { NOT_MODELLED_NAMES } from '../formats/observation.ts';
import { NESTED_TDP_WITHOUT_TDP, UNDETERMINED } from '../replay/result.ts';
import { names } from './option-values.ts';

const NAMES: readonly string[] = [...Object.values(NOT_MODELLED_NAMES), NESTED_TDP_WITHOUT_TDP, UNDETERMINED];

export const allowUnmodelledOption = {
  'allow-unmodelled': {
    type: 'string',
    array: true,
    coerce: names('--allow-unmodelled', NAMES),
    describe: `What may be met and not modelled without failing: ${NAMES.slice(0, -1).join(', ')}; ${UNDETERMINED}: what replay could not judge`,
  },
} as const;
