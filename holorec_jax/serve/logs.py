"""Logs as one JSON object a line. No history and no item id goes in here."""

import datetime
import json
import logging
from typing import Any

_LOGGER = logging.getLogger("holorec_jax.serve")


def event(name: str, level: int = logging.INFO, **fields: Any) -> None:
  """Logs that something happened, with JSON values that tell more."""
  _LOGGER.log(level, name, extra={"fields": fields})


def defect(name: str, **fields: Any) -> None:
  """Logs the exception being handled, which nobody foresaw."""
  _LOGGER.error(name, exc_info=True, extra={"fields": fields})


class JsonLines(logging.Formatter):
  """time, level, event, the event's fields and, of a defect, its traceback."""

  def format(self, record: logging.LogRecord) -> str:
    time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    line = {
      "time": time.isoformat(timespec="milliseconds"),
      "level": record.levelname,
      "event": record.getMessage(),
      **record.__dict__.get("fields", {}),
    }
    if record.exc_info:
      line["traceback"] = self.formatException(record.exc_info)
    return json.dumps(line)


def configure(every_request: bool = False) -> None:
  """Sends our events and uvicorn's to standard error, as JSON lines.

  Args:
    every_request: those too of which nothing but the number matters.
  """
  handler = logging.StreamHandler()
  handler.setFormatter(JsonLines())
  for logger in (_LOGGER, logging.getLogger("uvicorn")):
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
  if every_request:
    _LOGGER.setLevel(logging.DEBUG)
  # JAX announces every accelerator that it does not find.
  logging.getLogger("jax").setLevel(logging.WARNING)
