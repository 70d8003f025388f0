"""Memory that is freed and asked for again at every call."""

import ctypes

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed() -> None:
  """Tells glibc's malloc to keep what is freed, before jax starts threads.

  On a CPU every call of a compiled program allocates its buffers anew. Beyond
  32 MB they come from the system, page by page and zeroed, which takes a tenth
  of the time of search. Other C libraries are left alone.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError):
    return
  mallopt(M_ARENA_MAX, 1)
  mallopt(M_MMAP_MAX, 0)
  mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
