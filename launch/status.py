"""Exit statuses of the launch scripts, which supervise.sh acts upon."""

import contextlib
import sys
from collections.abc import Iterator

from holorec_jax.errors import UserError
from holorec_jax.train import preemption

# An error that the user can mend; absl and Python end with 1 after others.
REFUSED = 2


@contextlib.contextmanager
def exits() -> Iterator[None]:
  """Ends the process with the status of what is raised inside."""
  try:
    yield
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(REFUSED)
  except preemption.Preempted:
    sys.exit(preemption.EXIT_CODE)


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
  """Imports inside may be of an extra of setup.py that is not installed."""
  try:
    yield
  except ModuleNotFoundError as error:
    print(
      f"error: {error}; it comes with pip install -e '.[{extra}]'",
      file=sys.stderr,
    )
    sys.exit(REFUSED)
