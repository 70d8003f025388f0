"""What goes over the wire; the OpenAPI page is made of these."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_IDS = 4096
MAX_UNAVAILABLE = 1_000_000

ItemId = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Path = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Paths = Annotated[list[Path], Field(max_length=64)]
Ids = Annotated[list[ItemId], Field(max_length=MAX_IDS)]


class _Request(BaseModel):
  # A misspelt field must not pass for an absent one.
  model_config = ConfigDict(extra="forbid", strict=True)


class RecommendRequest(_Request):
  """One user's history and what may be recommended."""

  history: Ids = Field(
    description="Item ids, the oldest first. The model reads as many of the"
    " latest as it was made for. Empty: the most popular items are answered."
  )
  k: int | None = Field(
    default=None,
    ge=1,
    description="Items wanted, at most the bundle's k (default).",
  )
  exclude_seen: bool = Field(
    default=False, description="No item of the history."
  )
  deny: Ids = Field(default=[], description="Item ids never to return.")
  allow: Ids | None = Field(
    default=None,
    description="Item ids to choose from; absent: the whole catalogue.",
  )
  unknown: Literal["refuse", "ignore"] = Field(
    default="refuse",
    description="Ids that the catalogue does not have are refused with status"
    " 422, or left out and listed in the answer's `unknown_items`.",
  )
  explain: bool = Field(
    default=False, description="Say of each item why (`explanation`)."
  )


class Thought(BaseModel):
  code: int = Field(description="Of the coarsest granularity.")
  probability: float


class Level(BaseModel):
  """One code of an item, and what led to it."""

  code: int
  log_probability: float = Field(description="Given the codes before.")
  thought: list[Thought] = Field(
    description="The likeliest coarse codes that the model thought of before"
    " this code; none where it does not think in codes."
  )


class Explanation(BaseModel):
  """The score is the sum of all logarithms in here, without neighbours."""

  levels: list[Level]
  log_share: float = Field(
    description="Log share of the item among those of the same codes."
  )


class Item(BaseModel):
  id: str
  title: str
  score: float = Field(
    description="Log-probability; log share of interactions if `from_prior`."
  )
  explanation: Explanation | None = Field(
    default=None,
    description="Absent unless asked for, and if `from_prior`.",
  )


class RecommendResponse(BaseModel):
  """Items, the best first; fewer than k where the filters leave no more."""

  items: list[Item]
  from_prior: bool = Field(
    description="There was no (known) history: these are the most popular."
  )
  unknown_items: list[str] = Field(
    description="Ids that were ignored, in order of appearance."
  )
  bundle: str = Field(description="Version of the bundle that answered.")


class Health(BaseModel):
  """The process lives if it answers; whether it can recommend is `ready`."""

  ready: bool
  bundle: str | None = Field(description="Version; null before ready.")


class SwapRequest(_Request):
  bundle: Path | None = Field(
    default=None,
    description="Folder on the server; absent: the one it was started with,"
    " with the item deltas it was started with.",
  )
  deltas: Paths = Field(
    default=[],
    description="Folders of item deltas to apply to it (then), in order.",
  )


class DeltaRequest(_Request):
  delta: Path = Field(
    description="Folder of an item delta on the server, for the bundle that"
    " answers now."
  )


class SwapResponse(BaseModel):
  bundle: str = Field(description="Version that answers from now on.")
  previous: str


class AvailabilityRequest(_Request):
  unavailable: Annotated[list[ItemId], Field(max_length=MAX_UNAVAILABLE)] = (
    Field(description="All items that nobody may get; replaces the last list.")
  )


class AvailabilityResponse(BaseModel):
  unavailable: int = Field(description="Items of the catalogue now left out.")
  unknown_items: list[str] = Field(
    description="Ids that this catalogue lacks; kept for the next one."
  )


class Problem(BaseModel):
  """What is wrong with one field of a request."""

  field: list[str | int] = Field(
    description="Where: names of fields and positions in lists."
  )
  problem: str


class Refusal(BaseModel):
  """Body of every answer whose status is not 200."""

  detail: str
  problems: list[Problem] = Field(default=[], description="Of status 422.")
