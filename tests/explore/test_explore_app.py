"""What the page asks for: answers, and refusals that say what is wrong."""

import dataclasses

import httpx
import numpy as np
import pytest

from holorec_jax.decode.requests import Filters, make_histories
from holorec_jax.explore.explorer import Explorer, walk


@pytest.fixture(scope="module")
def client(site):
  with httpx.Client(base_url=site, timeout=60) as client:
    yield client


def get(client, path, **parameters):
  answer = client.get(f"/api/{path}", params=parameters)
  assert answer.status_code == 200, answer.text
  return answer.json()


def recommend(client, history, **options):
  body = {"history": history} | options
  answer = client.post("/api/recommend", json=body)
  assert answer.status_code == 200, answer.text
  return answer.json()


def test_says_what_run_it_is(client):
  assert get(client, "run") == {
    "system": "thinking",
    "data": "tiny",
    "step": 1200,
    "items": 24,
    "users": 5,
    "events": 15,
    "levels": 2,
    "codes": 6,
    "max_history": 8,
    "by_level": True,
  }


def test_items_are_found_by_words_of_title_or_id(client, run):
  def found(query, **limit):
    return [e["item"] for e in get(client, "items", query=query, **limit)]

  assert found("NAIL no06") == found("06 polish") == ["item6"]
  assert found(" item23 ") == ["item23"]
  assert found("no such thing") == []
  # Words that begin with it go first: "Oil" before every "Foil".
  oils = found("oil", limit=100)
  assert oils[0] == "item0" and set(oils[1:]) == {
    f"item{i}" for i in range(3, 24, 4)
  }
  counts_I = run.recommender.catalog.counts_I
  popular = [counts_I[int(item[4:])] for item in found("", limit=24)]
  assert popular == sorted(counts_I, reverse=True)
  assert len(found("")) == 12
  (untitled,) = get(client, "items", query="item1", limit=1)
  assert untitled == {"item": "item1", "title": "item1"}


def test_users_and_their_histories(client, run):
  assert get(client, "users", query="user3") == [{"user": "user3", "events": 4}]
  assert get(client, "users", query="nobody") == []
  starting = get(client, "users", query="use")
  assert [entry["user"] for entry in starting] == [f"user{u}" for u in range(5)]
  some = get(client, "users", limit=3)
  assert len({entry["user"] for entry in some}) == 3
  history = get(client, "history", user="user3")["history"]
  assert [entry["item"] for entry in history] == [
    f"item{i}" for i in run.dataset.history(3)
  ]


def test_recommends_what_the_recommender_does_and_says_why(client, run):
  answer = recommend(client, ["item3", "item17"], k=5, exclude_seen=True)
  histories = make_histories([[3, 17]])
  found = run.recommender.recommend(histories, Filters(exclude_seen=True))
  assert not answer["from_prior"]
  entries = answer["recommendations"]
  best = [f"item{i}" for i in found.items_UK[0, :5]]
  assert [e["item"] for e in entries] == best
  np.testing.assert_allclose(
    [e["score"] for e in entries], found.scores_UK[0, :5], rtol=1e-5
  )
  share_KLV = run.probe.thoughts(histories, found.items_UK)[0]
  codes_IL = run.recommender.catalog.codes_IL
  for place, entry in enumerate(entries):
    codes_L = codes_IL[int(entry["item"][4:])]
    assert [link["code"] for link in entry["chain"]] == codes_L.tolist()
    for level, link in enumerate(entry["chain"]):
      alike_I = (codes_IL[:, : level + 1] == codes_L[: level + 1]).all(axis=1)
      assert link["items"] == alike_I.sum()
      assert len(link["titles"]) == min(3, alike_I.sum())
      shares = [share for _, share in link["thought"]]
      best = np.sort(share_KLV[place, level])[::-1][:2]
      np.testing.assert_allclose(shares, best, rtol=1e-5)


def test_without_a_history_the_most_popular_items(client, run):
  answer = recommend(client, [], k=3)
  best = np.argsort(-run.recommender.catalog.counts_I, kind="stable")[:3]
  assert answer["from_prior"]
  entries = answer["recommendations"]
  assert [e["item"] for e in entries] == [f"item{i}" for i in best]
  assert all(not link["thought"] for e in entries for link in e["chain"])


def test_a_system_that_ranks_items_has_codes_but_no_thoughts(run):
  explorer = Explorer(dataclasses.replace(run, probe=None))
  assert not explorer.about()["by_level"]
  (entry,) = explorer.recommend(["item2"], 1, False)["recommendations"]
  assert [link["thought"] for link in entry["chain"]] == [[], []]


def test_the_tree_holds_every_item_once(client):
  leaves = []

  def visit(prefix, items):
    node = get(client, "tree", prefix=",".join(map(str, prefix)))
    assert node["prefix"] == prefix and node["items"] == items
    assert len(node["names"]) == len(prefix)
    sizes = [child["items"] for child in node["children"]]
    assert sizes == sorted(sizes, reverse=True)
    for child in node["children"]:
      visit([*prefix, child["code"]], child["items"])
    assert sum(sizes) + len(node["leaf"]) == items
    leaves.extend(entry["item"] for entry in node["leaf"])

  visit([], 24)
  assert sorted(leaves) == sorted(f"item{i}" for i in range(24))


def test_walks_as_far_as_there_are_nodes(run):
  tree = run.recommender.catalog.tree
  codes = run.recommender.catalog.codes_IL[7].tolist()
  assert walk(tree, codes)[-1] == tree.leaf_of_item()[7]
  assert len(walk(tree, [*codes, 0])) == 3
  assert walk(tree, [-1]) == walk(tree, [99]) == [0]


@pytest.mark.parametrize(
  ("path", "status", "what", "where", "how"),
  [
    ("history?user=<b>", 404, "no user '<b>'", "user", "look like user0, user"),
    ("history", 400, "not what is expected", "user", "Field required"),
    ("items?query=a&limit=0", 400, "limit is", "limit", "greater than"),
    ("items?q=a", 400, "q is not", "q", "not permitted"),
    ("tree?prefix=1,x", 400, "prefix.1", "prefix.1", "valid integer"),
    ("tree?prefix=70000", 400, "prefix.0", "prefix.0", "less than 65536"),
    ("tree?prefix=99", 404, "begin with [99]", "prefix", "After [] there are"),
    ("tree?prefix=1,2,3", 404, "begin with [1, 2, 3]", "prefix", ""),
    ("nowhere", 404, "Not Found", "GET /api/nowhere", "The paths are"),
  ],
)
def test_refuses(client, path, status, what, where, how):
  answer = client.get(f"/api/{path}")
  assert answer.status_code == status
  told = answer.json()
  assert told.keys() == {"what", "where", "how"}
  assert what in told["what"] and told["where"] == where and how in told["how"]


@pytest.mark.parametrize(
  ("body", "where"),
  [
    (b'{"history": ["item1", "nothing"]}', "history.1"),
    (b'{"history": ["item1", 3]}', "history.1"),
    (b'{"history": [], "k": 51}', "k"),
    (b'{"history": [], "beam": 51}', "beam"),
    (b"{}", "history"),
    (b"\xff", "body"),
  ],
)
def test_refuses_bodies(client, body, where):
  answer = client.post("/api/recommend", content=body)
  assert answer.status_code == 400
  assert answer.json()["where"] == where


def test_the_page_is_of_this_server_alone(client):
  page = client.get("/")
  assert page.headers["content-type"] == "text/html; charset=utf-8"
  assert "default-src 'self'" in page.headers["content-security-policy"]
  texts = [page.text]
  for name in ("page.css", "dom.js", "found.js", "page.js", "tree.js"):
    file = client.get(f"/{name}")
    assert file.status_code == 200
    texts.append(file.text)
  for text in texts:
    assert "http:" not in text and "https:" not in text
    assert "innerHTML" not in text
  stranger = client.get("/api/run", headers={"host": "evil.example"})
  assert stranger.status_code == 400
