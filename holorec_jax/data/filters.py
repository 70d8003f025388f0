"""Filters over raw events: columnar, and each one says what it removed."""

import dataclasses

import numpy as np
from absl import logging

from holorec_jax import errors
from holorec_jax.data import config as config_lib
from holorec_jax.data import schema

DUPLICATES = ("keep", "first", "consecutive")


def apply_filters(
  events: schema.Events, config: config_lib.DataConfig
) -> schema.Events:
  """Rating threshold, order, duplicates, core; events grouped by user.

  Raises:
    UserError: unknown policy, ratings that are missing, or nothing left; names
      the filter that took the last event.
  """
  if config.duplicates not in DUPLICATES:
    raise errors.UserError(
      f"data.duplicates is {config.duplicates!r}, expected one of {DUPLICATES}"
    )
  if not events.num_events:
    raise errors.UserError(
      f"{config.path or config.source}: no events in it; set data.path to data "
      "with at least one"
    )
  if config.min_rating:
    events = _keep(events, _rated(events, config), "min_rating")
  events = order(events)
  if config.duplicates != "keep":
    kept = DISTINCT[config.duplicates](events)
    events = _keep(events, kept, f"duplicates={config.duplicates}")
  return _core(events, config)


def order(events: schema.Events) -> schema.Events:
  """Groups events by user, oldest first; equal times keep file order."""
  by_time = (
    np.arange(events.num_events)
    if events.times_ms is None
    else np.argsort(events.times_ms, kind="stable")
  )
  by_user = np.argsort(events.users[by_time], kind="stable")
  return take(events, by_time[by_user])


def take(events: schema.Events, index: np.ndarray) -> schema.Events:
  """The events at `index` (positions or a mask), ids untouched."""
  return dataclasses.replace(
    events,
    users=events.users[index],
    items=events.items[index],
    times_ms=None if events.times_ms is None else events.times_ms[index],
    ratings=None if events.ratings is None else events.ratings[index],
  )


def first_of_item(events: schema.Events) -> np.ndarray:
  """(E,) bool: a user's first event with an item, for ordered events."""
  pair = events.users.astype(np.int64) * len(events.item_ids) + events.items
  _, first = np.unique(pair, return_index=True)
  mask = np.zeros(events.num_events, bool)
  mask[first] = True
  return mask


def not_repeated(events: schema.Events) -> np.ndarray:
  """(E,) bool: events that differ from the user's event before."""
  mask = np.ones(events.num_events, bool)
  mask[1:] = (np.diff(events.users) != 0) | (np.diff(events.items) != 0)
  return mask


DISTINCT = {"first": first_of_item, "consecutive": not_repeated}


def core_mask(
  users: np.ndarray, items: np.ndarray, min_user: int, min_item: int
) -> np.ndarray:
  """(E,) bool: what is left when rare users and items go, again and again.

  The result is the largest set of events in which every user has at least
  `min_user` events and every item at least `min_item`.
  """
  kept = np.arange(len(users))
  while True:
    u, i = users[kept], items[kept]
    enough = np.bincount(u, minlength=1)[u] >= min_user
    enough &= np.bincount(i, minlength=1)[i] >= min_item
    if enough.all():
      break
    kept = kept[enough]
  mask = np.zeros(len(users), bool)
  mask[kept] = True
  return mask


def _rated(events: schema.Events, config: config_lib.DataConfig) -> np.ndarray:
  if events.ratings is None:
    raise errors.UserError(
      f"data.min_rating={config.min_rating} needs ratings, but source "
      f"{config.source!r} has none; check data.rating_column or set it to 0"
    )
  mask = events.ratings >= config.min_rating
  if not mask.any():
    raise errors.UserError(
      f"data.min_rating={config.min_rating:g} leaves nothing of "
      f"{events.num_events} events: the highest rating is "
      # fmax: a rating that is NaN is not the highest.
      f"{np.fmax.reduce(events.ratings):g}; lower data.min_rating, or set it "
      "to 0 to keep all"
    )
  return mask


def _core(
  events: schema.Events, config: config_lib.DataConfig
) -> schema.Events:
  min_user = max(config.k_core, config.min_length)
  mask = core_mask(events.users, events.items, min_user, config.k_core)
  what = f"k_core={config.k_core}, min_length={config.min_length}"
  if not mask.any():
    raise errors.UserError(
      f"{what} leave nothing of {events.num_events} events of "
      f"{_distinct(events.users)} users and "
      f"{_distinct(events.items)} items; lower them or add data"
    )
  return _keep(events, mask, what)


def _keep(events: schema.Events, mask: np.ndarray, what: str) -> schema.Events:
  kept = take(events, mask)
  logging.info(
    "%s: removed %d events, %d users, %d items; %d events left",
    what,
    events.num_events - kept.num_events,
    _distinct(events.users) - _distinct(kept.users),
    _distinct(events.items) - _distinct(kept.items),
    kept.num_events,
  )
  return kept


def _distinct(codes: np.ndarray) -> int:
  return int(np.count_nonzero(np.bincount(codes))) if len(codes) else 0
