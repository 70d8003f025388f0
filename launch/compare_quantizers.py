r"""Fits every quantizer on one data set and prints a table of their health.

  python launch/compare_quantizers.py --config=configs/beauty.py \
    --config.data.path=PATH --workdir=DIR

Rows and numbers are in DIR/quantizers.json, too; what is there is not fitted
again. The rows are told in holorec_jax/experiment/quantizer_table.py.
"""

import stage

from holorec_jax.experiment import preparation, quantizer_table

if __name__ == "__main__":
  stage.run(preparation.prepare_data, quantizer_table.compare)
