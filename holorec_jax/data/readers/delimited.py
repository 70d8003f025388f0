"""Text tables: CSV, TSV and what data sets make of them.

A file is read once at Arrow's speed; only when that fails does a slow second
look find the line to name in the error.
"""

import csv
import dataclasses
import itertools
import pathlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.csv

from holorec_jax import errors
from holorec_jax.data.readers import columns, files

# Millions of repeated ids: 4 bytes a row and each string once.
ID = pa.dictionary(pa.int32(), pa.string())
NUMBER = pa.float64()


@dataclasses.dataclass(frozen=True)
class Delimited:
  """A text table.

  Attributes:
    path: the file, possibly compressed.
    delimiter: between cells; one longer than a character allows no quotes.
    names: column names; () to take them from the header line.
    header_lines: lines before the first row, blank ones not counted.
    quotes: whether a cell may be quoted, and then hold delimiters and newlines.
    encoding: of the text.
  """

  path: pathlib.Path
  delimiter: str = ","
  names: tuple[str, ...] = ()
  header_lines: int = 1
  quotes: bool = True
  encoding: str = "utf-8-sig"

  def columns(self) -> list[str]:
    """Column names, of the header line where there is one."""
    return list(self.names) if self.names else self._header()[1]

  def read(self, types: dict[str, pa.DataType], only: bool = True) -> pa.Table:
    """The columns in `types`; the others too, of guessed type, if not `only`.

    Raises:
      UserError: a line with too few or too many cells, or a cell of another
        type, with its number.
    """
    names = self.columns()
    try:
      try:
        table = self._parse(names, types, only, self.quotes and not only)
      except pa.ArrowInvalid:
        # Cells of several lines are rare among events, and slow to read.
        if not (self.quotes and only):
          raise
        table = self._parse(names, types, only, newlines=True)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
      raise self._explain(types, names, error) from error
    if not table.num_rows:
      raise errors.UserError(f"{self.path}: no rows, only a header")
    return table

  def _parse(
    self,
    names: list[str],
    types: dict[str, pa.DataType],
    only: bool,
    newlines: bool,
  ) -> pa.Table:
    """`read` where cells may hold newlines, or may not."""
    with files.open_bytes(self.path) as stream:
      return pa.csv.read_csv(
        self._single(stream),
        pa.csv.ReadOptions(
          encoding=self.encoding.removesuffix("-sig"),
          column_names=names,
          # Arrow counts the blank lines before a header, too.
          skip_rows=self._header()[0],
        ),
        pa.csv.ParseOptions(
          delimiter=self._delimiter,
          quote_char='"' if self.quotes else False,
          newlines_in_values=newlines,
        ),
        pa.csv.ConvertOptions(
          column_types=types,
          include_columns=list(types) if only else None,
        ),
      )

  def where(self, row: int) -> str:
    """What to call data row `row` (from 0) in an error."""
    for number, _ in itertools.islice(self._rows(), row, None):
      return f"line {number}"
    return f"row {row + 1}"

  @property
  def _delimiter(self) -> str:
    return self.delimiter if len(self.delimiter) == 1 else "\t"

  def _single(self, stream: pa.NativeFile) -> pa.NativeFile:
    """Arrow cuts at single characters only."""
    if len(self.delimiter) == 1:
      return stream
    return pa.BufferReader(
      stream.read().replace(self.delimiter.encode(), b"\t")
    )

  def _header(self) -> tuple[int, list[str]]:
    """(number of the last header line, its cells); 0 and [] without one."""
    if not self.header_lines:
      return 0, []
    filled = (
      (number, cells)
      for number, cells in self._cells()
      if any(cell.strip() for cell in cells)
    )
    for last in itertools.islice(filled, self.header_lines - 1, None):
      return last
    raise errors.UserError(f"{self.path}: no header line, only blank ones")

  def _rows(self) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every data row."""
    end = self._header()[0]
    return (row for row in self._cells() if row[0] > end)

  def _cells(self) -> Iterator[tuple[int, list[str]]]:
    """(line number of the row's end, cells) of every row, header included.

    As for Arrow, an empty line is no row, but one of spaces or tabs is.
    """
    numbers = [0]

    def lines() -> Iterator[str]:
      for number, line in files.read_lines(
        self.path, self.encoding, blank=True
      ):
        numbers[0] = number
        yield line.replace(self.delimiter, self._delimiter)

    for cells in csv.reader(
      lines(),
      delimiter=self._delimiter,
      quoting=csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE,
    ):
      if cells:
        yield numbers[0], cells

  def _explain(
    self, types: dict[str, pa.DataType], names: list[str], error: Exception
  ) -> errors.UserError:
    """Finds the first line that Arrow could not take."""
    numeric = [
      names.index(name)
      for name, kind in types.items()
      if pa.types.is_floating(kind) and name in names
    ]
    for number, cells in self._rows():
      if len(cells) != len(names):
        return errors.UserError(
          f"{self.path}, line {number}: {len(cells)} columns, expected "
          f"{len(names)} ({', '.join(names)})"
        )
      for column in numeric:
        if not columns.is_number(cells[column]):
          return errors.UserError(
            f"{self.path}, line {number}: {names[column]} is "
            f"{cells[column]!r}, expected a number"
          )
    return errors.UserError(f"{self.path}: {error}")


def from_path(path: pathlib.Path) -> Delimited:
  """A text table whose suffix tells the delimiter: .csv, or .tsv and .txt.

  Raises:
    UserError: another suffix.
  """
  suffix = files.plain_suffix(path)
  if suffix == ".csv":
    return Delimited(path)
  if suffix in (".tsv", ".txt", ".tab"):
    return Delimited(path, "\t", quotes=False)
  raise errors.UserError(
    f"{path}: unknown format {suffix!r}, expected .csv, .tsv, .parquet or "
    ".jsonl (or one of the text formats compressed, .csv.gz)"
  )
