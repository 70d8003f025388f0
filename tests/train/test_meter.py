"""Speeds, FLOPs and traces of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from tiny_training import CATALOG, OBJECTIVE, make_batches

from holorec_jax.errors import UserError
from holorec_jax.train import flops, meter, profile
from holorec_jax.types import Batch


def test_rates_are_of_the_time_since_the_last_line(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])
  rows = make_batches()[0]
  batch = Batch(**rows)
  tokens = int((rows["segment_BT"] > 0).sum())
  counting = meter.Meter(peak=1000.0, flops=lambda batch: 3000.0)
  for _ in range(2):
    with counting.waiting():
      now[0] += 0.5
    counting.read_in(rows, batch)
    now[0] += 1.5
    counting.trained(40.0)
  half = {k: v[: len(v) // 2] for k, v in rows.items()}
  assert counting.read() == {
    "speed/targets_per_second": 20.0,
    "speed/tokens_per_second": tokens / 2,
    "speed/input_wait_share": 0.25,
    "speed/mfu": 1.5,
  }
  # One of two processes: of the other's rows it knows the number alone.
  counting.read_in(half, batch)
  counting.trained(10.0)
  now[0] += 2.0
  own = int((half["segment_BT"] > 0).sum())
  read = counting.read()
  assert read["speed/targets_per_second"] == 5.0
  assert read["speed/tokens_per_second"] == own * 2 / 2.0
  # What a validation takes is no time of training.
  now[0] += 50.0
  counting.restart()
  counting.trained(8.0)
  now[0] += 2.0
  assert counting.read() == {"speed/targets_per_second": 4.0}


def test_compilations_are_counted_while_it_is_open():
  with meter.Meter() as counting:
    jax.jit(lambda x: x * 3 + 1)(np.float32(2)).block_until_ready()
    read = counting.read()
    assert read["speed/compilations"] >= 1
    assert read["speed/compile_seconds"] > 0
    assert "speed/compilations" not in counting.read()
  jax.jit(lambda x: x * 3 + 2)(np.float32(2)).block_until_ready()
  assert "speed/compilations" not in counting.read()


def test_memory_is_that_of_the_fullest_device(monkeypatch):
  class Device:
    def __init__(self, used):
      self._used = used

    def memory_stats(self):
      used = self._used
      return used and {"bytes_in_use": used, "peak_bytes_in_use": 2 * used}

  devices = [Device(None), Device(2**30), Device(3 * 2**30)]
  monkeypatch.setattr(meter.jax, "local_devices", lambda: devices)
  read = meter.Meter().read()
  assert read["memory/in_use_gib"] == 3.0
  assert read["memory/peak_gib"] == 6.0


def test_the_peak_is_known_by_kind_and_for_all_devices(monkeypatch):
  assert meter.peak_flops() is None  # a CPU's

  class Device:
    device_kind = "NVIDIA H100 80GB HBM3"

  monkeypatch.setattr(meter.jax, "devices", lambda: [Device()])
  monkeypatch.setattr(meter.jax, "device_count", lambda: 16)
  assert meter.peak_flops() == 16 * 989e12
  Device.device_kind = "NVIDIA H100 PCIe"
  assert meter.peak_flops() == 16 * 756e12
  assert meter.peak_flops(600.0) == 16 * 600e12


def test_a_peak_that_is_not_known_is_said_so(monkeypatch, caplog):
  class Device:
    device_kind = "Abacus 9000"

  monkeypatch.setattr(meter.jax, "devices", lambda: [Device()])
  monkeypatch.setattr(meter.jax, "default_backend", lambda: "gpu")
  assert meter.peak_flops() is None
  assert "'Abacus 9000' is not known: config.train.peak_tflops" in caplog.text
  assert meter.peak_flops(2.0) == 2e12 * jax.device_count()


def test_products_are_counted_through_loops_branches_and_calls():
  def layer(x, w):
    return jax.nn.relu(x @ w), None

  @jax.checkpoint
  def stack(x, w_LDD):
    return jax.lax.scan(layer, x, w_LDD)[0]

  def network(x, w_LDD):
    x = jax.jit(stack)(x, w_LDD)
    x = jax.lax.cond(x[0, 0] > 0, lambda y: y @ w_LDD[0], lambda y: y, x)
    return jnp.einsum("bd,cd->bc", x, x)

  x, w_LDD = jnp.zeros((4, 8)), jnp.zeros((5, 8, 8))
  jaxpr = jax.make_jaxpr(network)(x, w_LDD).jaxpr
  products = 5 * 2 * 4 * 8 * 8 + 2 * 4 * 8 * 8 + 2 * 4 * 4 * 8
  assert flops.count_products(jaxpr) == products


def test_flops_of_a_step_are_nearly_those_that_xla_counts():
  """On a network without loops, whose small operations count little."""
  params = OBJECTIVE.init_params(0)
  codes = tiny.make_codes(CATALOG)
  batch = Batch(**make_batches()[0])
  counted = flops.make_flops(OBJECTIVE, params, codes)(batch)
  compiled = jax.jit(
    jax.grad(lambda p: OBJECTIVE.loss(p, batch, codes, None)[0])
  ).lower(params)
  analysis = compiled.cost_analysis()
  assert 0.3 < counted / analysis["flops"] < 1.2
  # Half of the rows, half of the work.
  half = jax.tree.map(lambda x: x[: len(x) // 2], batch)
  less = flops.make_flops(OBJECTIVE, params, codes)(half)
  assert less == pytest.approx(counted / 2, rel=0.1)


def test_a_window_of_steps_is_traced(tmp_path, caplog):
  step = jax.jit(lambda x: x + 1)
  with profile.Profile(tmp_path / "profile", (2, 3)) as window:
    for number in (1, 2, 3, 4):
      window.before(number)
      window.after(number, step(number))
  traces = list((tmp_path / "profile").rglob("*.xplane.pb"))
  assert len(traces) == 1
  # A run that ends, or begins, inside the window.
  with profile.Profile(tmp_path / "cut", (2, 30)) as window:
    window.before(7)
    window.after(7, step(7))
  assert list((tmp_path / "cut").rglob("*.xplane.pb"))
  assert "--profile" not in caplog.text
  with profile.Profile(tmp_path / "never", (20, 30)) as window:
    window.before(7)
    window.after(7, step(7))
  assert "--profile=20:30: none of these steps was trained" in caplog.text


def test_windows():
  assert profile.parse_window("") is None
  assert profile.parse_window("7:9") == (7, 9)
  for text in ("7", "9:7", "0:3", "a:b"):
    with pytest.raises(UserError, match=f"--profile is '{text}'; expected"):
      profile.parse_window(text)
