"""What has to happen before jax and numpy are imported: `import prelude`.

Scripts import it ahead of all but the standard library.
"""

import ctypes
import os
import pathlib
import sys

# Parameters of glibc's mallopt (malloc.h) and of Linux's madvise.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
MADV_HUGEPAGE = 14
# Bytes of the heap that get huge pages.
RESERVED = 3 << 29


def keep_freed() -> None:
  """Tells glibc's malloc to keep what is freed, the first part in huge pages.

  On a CPU every call of a compiled program allocates its buffers anew. Beyond
  32 MB they come from the system, page by page and zeroed, which takes a sixth
  to a quarter of the time of a training step. malloc heeds the number of its
  arenas only while there is one thread, and numpy starts more. Other C
  libraries are left alone.
  """
  try:
    libc = ctypes.CDLL(None)
    mallopt, sbrk, madvise = libc.mallopt, libc.sbrk, libc.madvise
  except (OSError, AttributeError):
    return
  mallopt(M_ARENA_MAX, 1)
  mallopt(M_MMAP_MAX, 0)
  mallopt(M_TRIM_THRESHOLD, -1)  # never
  libc.malloc.restype = sbrk.restype = ctypes.c_void_p
  libc.malloc.argtypes = [ctypes.c_size_t]
  libc.free.argtypes = [ctypes.c_void_p]
  sbrk.argtypes = [ctypes.c_ssize_t]
  madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
  # Addresses: what nobody writes to takes no memory.
  page = os.sysconf("SC_PAGE_SIZE")
  begin = -(-sbrk(0) // page) * page
  libc.free(libc.malloc(RESERVED))
  madvise(begin, max(sbrk(0) - begin, 0), MADV_HUGEPAGE)


# A quiet start, and in a log file no bar more often than it is read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if not sys.stderr.isatty():
  os.environ.setdefault("TQDM_MININTERVAL", "10")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
keep_freed()
