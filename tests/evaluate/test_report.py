"""The report: one page, whole, safe, without the network."""

import dataclasses
import html.parser

import numpy as np
import pytest

from holorec_jax.evaluate import report

LINK = {
  "level": 1,
  "thought": [("shampoo, argan", 0.62), ("hair dye", 0.002)],
  "code": 37,
  "name": "dry shampoo",
}
EXAMPLE = {
  "user": "u7",
  "history": ["First thing", "Second <b>thing</b>"],
  "target": "Wanted thing",
  "recommendations": [
    {"title": "Wanted thing", "score": -1.25, "chain": [LINK], "hit": True},
    {"title": "Other thing", "score": -2.5, "chain": [], "hit": False},
  ],
}


@pytest.fixture
def contents(build, health) -> report.Contents:
  return report.Contents(
    title="HoloRec on tiny",
    facts={"Data": "tiny", "Commit": "abc1234", "Seed": "0"},
    config={
      "train.steps": 10,
      "search.k": 20,
      "search.beam": 30,
      "search.batch": 64,
    },
    results=build(
      seconds={
        "train/thinking": 83.0,
        "train/non_thinking": 42.0,
        "evaluate": 9.0,
        "train": 125.0,
      }
    )
    | {
      "parameters": {"thinking": 1234567, "non_thinking": 99},
      "search_ms_per_user": {"thinking": 4.256, "non_thinking": 2.5},
    },
    curves=[{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}],
    health=health,
    sids_IRL=np.zeros((6, 2, 2), np.int32),
    accuracy={"fine": [0.1, 0.5]},
    examples=[EXAMPLE],
    commands=["python launch/run.py --config=configs/tiny.py"],
  )


class Page(html.parser.HTMLParser):
  """Tags and text; fails on tags that do not close."""

  VOID = ("meta", "img")

  def __init__(self, text: str) -> None:
    super().__init__()
    self.open: list[str] = []
    self.images: list[dict[str, str | None]] = []
    self.links: list[str | None] = []
    self.ids: list[str | None] = []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    if tag not in self.VOID:
      self.open.append(tag)
    given = dict(attrs)
    if tag == "img":
      self.images.append(given)
    self.links += [given[key] for key in ("href", "src") if key in given]
    self.ids += [given["id"]] if "id" in given else []

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_holds_what_it_must(contents):
  text = report.render(contents)
  for words in (
    "HoloRec on tiny",
    "abc1234",
    "Items of the history left out",
    "train 2 min 05 s, evaluate 9.0 s",
    "1,234,567",
    "1 min 23 s",
    "4.26 ms",
    "beam 30, users in batches of\n64",
    "train.steps = 10",
    "--config=configs/tiny.py",
    "Teacher-forced accuracy",
    "non-thinking",
    "Wanted thing",
    "✓ hit",
    "shampoo, argan",
    "62%",
    "&lt;1%",
    "Level 2:",
    "dry shampoo",
    "−1.25",
  ):
    assert words in text, words


def test_needs_no_network_and_every_image_has_words(contents):
  text = report.render(contents)
  page = Page(text)
  assert "http://" not in text and "https://" not in text
  assert "@import" not in text and "<script" not in text
  for link in page.links:
    assert link.startswith(("#", "data:"))
    if link.startswith("#"):
      assert link[1:] in page.ids
  assert len(page.images) >= 5
  assert all(len(image["alt"]) > 20 for image in page.images)


def test_titles_cannot_write_html(contents):
  text = report.render(contents)
  assert "Second &lt;b&gt;thing&lt;/b&gt;" in text


def test_parts_that_a_run_lacks_are_left_out(contents):
  less = dataclasses.replace(contents, curves=[], accuracy={}, examples=[])
  text = report.render(less)
  page = Page(text)
  assert "training" not in page.ids and "examples" not in page.ids


def test_a_run_without_times_of_its_training(contents):
  tree = dict(contents.results) | {"seconds": {}}
  text = report.render(dataclasses.replace(contents, results=tree))
  assert "<dt>Time</dt>" not in text and "<td>–</td>" in text


def test_summary_compares_with_the_strongest_baseline(build):
  text = report.summarise(build())
  assert "Thinking finds a user’s next item" in text
  assert "100.00% of 3 users" in text
  assert "not clearly different from the strongest baseline, popularity" in text


@pytest.mark.parametrize(
  ("seconds", "words"),
  [(3.21, "3.2 s"), (245, "4 min 05 s"), (7380, "2 h 03 min")],
)
def test_durations(seconds, words):
  assert report.duration(seconds) == words


def test_decimals_as_papers_print_them():
  assert report.decimal(0.0648) == ".0648"
  assert report.decimal(1.0) == "1.0000"
  assert report.decimal(-0.0012, sign=True) == "−.0012"
  assert report.decimal(0.0012, sign=True) == "+.0012"
