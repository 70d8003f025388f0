r"""Trains the systems of the config; goes on from the last checkpoint.

The same command in one process or in several, on one host or on many, which
need to see the same --workdir (flags: --coordinator, --processes, --process_id;
under srun, mpirun and indexed Kubernetes jobs none). SIGTERM, or Ctrl-C once,
saves after the step at hand and ends with status 75: the same command goes on,
with as many processes as you like, on any number of devices that divides a
batch's rows (a multiple of 8). launch/supervise.sh does that by itself.

What a step takes on devices that are not here, before renting any:

  python launch/train.py --config=configs/pod/holorec_1b.py --workdir=DIR \
    --config.mesh.fsdp=8 --plan=64

prints parameters, bytes on a device, FLOPs, the expected time and what is sent
between devices; it reads no data and writes nothing.
"""

import pathlib

import stage
from absl import flags

from holorec_jax.errors import UserError
from holorec_jax.experiment import absent_gpus, plan, training
from holorec_jax.experiment.config import Config
from holorec_jax.train import meter
from holorec_jax.train.profile import parse_window

PROFILE = flags.DEFINE_string(
  "profile",
  "",
  "START:STOP, the first and the last step of a trace in the system's folder"
  " profile/ (TensorBoard's or XProf's profile page reads it).",
)
PLAN = flags.DEFINE_integer(
  "plan", 0, "Trains nothing and plans a step on so many devices.", 0
)
PLAN_ITEMS = flags.DEFINE_integer(
  "plan_items", 100_000, "With --plan: items of the catalogue.", 2
)
PLAN_GPU = flags.DEFINE_enum(
  "plan_gpu",
  "",
  ["", *absent_gpus.GPUS],
  "With --plan: GPUs to compile for, which need not be here (JAX's CUDA plugin"
  " must be); else simulated CPU devices.",
)
PLAN_TFLOPS = flags.DEFINE_float(
  "plan_tflops",
  None,
  "With --plan: peak of a device in TFLOP/s of config.train.dtype; by default"
  " that of --plan_gpu, else of an H100, in bfloat16.",
  1e-3,
)
PLAN_MFU = flags.DEFINE_float(
  "plan_mfu", 0.4, "With --plan: share of the peak that is expected.", 0.001, 1
)


def train(config: Config, workdir: pathlib.Path) -> None:
  """The stage, with the profile's window; or its plan."""
  if PLAN.value:
    tflops = PLAN_TFLOPS.value
    if tflops is None:
      gpu = absent_gpus.GPUS[PLAN_GPU.value or "h100"]
      peak = meter.peak_of(gpu.name)
      assert peak  # as all of these GPUs are on the meter's list
      tflops = peak / 1e12
    machine = plan.Machine(PLAN.value, tflops, PLAN_MFU.value, PLAN_GPU.value)
    plan.simulate(machine.devices)
    planned = plan.make_plan(config, machine, PLAN_ITEMS.value)
    print(plan.describe(planned, machine))
    return
  if PLAN_GPU.value:
    raise UserError(
      f"--plan_gpu={PLAN_GPU.value} plans nothing: give --plan=DEVICES, too"
    )
  training.train(config, workdir, parse_window(PROFILE.value))


if __name__ == "__main__":
  stage.run(train, together=True, plans=lambda: bool(PLAN.value))
