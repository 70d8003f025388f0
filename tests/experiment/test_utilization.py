"""What a profile's time is called, and what the suite does not measure."""

import dataclasses

import pytest
from tiny_run import TINY

from holorec_jax.errors import UserError
from holorec_jax.experiment import utilization

PROGRAM = """
%fused (p: f32[4]) -> f32[4] {
  ROOT %add.7 = f32[4]{0} add(%p, %p), metadata={op_name="jit(step)/mlp/add"}
}
ENTRY %main {
  %dot.3 = f32[4,4]{1,0} dot(%a, %b), metadata={op_name="jit(step)/wo/dot"}
  %while.1 = (s32[], f32[4]{0}) while(%t), condition=%c, body=%d
  ROOT %copy.2 = f32[4]{0} copy(%x)
}
"""


def test_operations_are_those_that_hold_no_others():
  assert utilization.find_sources(PROGRAM) == {
    "add.7": "jit(step)/mlp/add",
    "dot.3": "jit(step)/wo/dot",
    "copy.2": "",
  }


@pytest.mark.parametrize(
  "source, kind",
  [
    ("jit(step)/jvp(Model)/wo/dot", "forward wo/dot (dot)"),
    ("jit(step)/transpose(jvp(Model))/wo/dot", "backward wo/dot (dot)"),
    (
      "jit(step)/transpose(jvp(Model))/rematted_computation/wo/dot",
      "again wo/dot (dot)",
    ),
    ("", "dot"),
  ],
)
def test_kinds_tell_ways_and_not_numbers(source, kind):
  assert utilization.kind_of("dot.31", source) == kind


def test_kernels_of_libraries_are_one_kind():
  kind = "matrix products (cuBLAS, cutlass)"
  assert (
    utilization.kind_of_kernel("nvjet_sm90_tst_128x160_64x5_2x1_v_bz") == kind
  )
  assert utilization.kind_of_kernel("void cutlass::Kernel2<cutlass_80>") == kind
  assert (
    utilization.kind_of_kernel("loop_add_fusion_12") == "kernel loop_add_fusion"
  )


def test_rows_of_one_target_are_refused():
  config = dataclasses.replace(
    TINY,
    input=dataclasses.replace(
      TINY.input, rows="one_target", length_buckets=(TINY.input.max_history,)
    ),
  )
  with pytest.raises(UserError, match="fills packed rows"):
    utilization.measure(config, 50, 1)
