"""What every comparator asks of histories."""

import numpy as np


def check_histories(item_BT: np.ndarray) -> None:
  """Refuses empty histories, which attention treats differently everywhere.

  Raises:
    ValueError: a row does not begin with an item.
  """
  if not (item_BT[:, 0] >= 0).all():
    raise ValueError(
      "every history needs an item, the first one in its first slot"
    )
