"""A few kills of the many that `python tests/launch/chaos.py` does."""

import chaos


def test_what_befalls_a_run_leaves_no_trace(tmp_path):
  run = chaos.Chaos(tmp_path, processes=1, kills=4, seed=1)
  events = run.run()
  assert [event.split()[0] for event in events] == list(chaos.WAYS[1][:4])
  assert run.differences() == []
  log = (tmp_path / "wild-0.log").read_text()
  assert log.count("preempted: starting again") == 1
  assert log.count("the disk is full") == 1
  assert log.count("status 137: starting again") == 2
