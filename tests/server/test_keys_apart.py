"""What one key can learn of another, and take from it: nothing."""

import httpx
import pytest
from conftest import make_engine
from live_server import Live

from hyla.server import KeyRing, Limits, create_app, serve_model
from hyla.server.answering.stored import ResponseStore
from hyla.server.guard.keys import Sender, read_key_file

PROMPT = [9 + n % 80 for n in range(200)]
TEXT = "tell me " * 20
TURN = [{"role": "user", "content": TEXT}]
GENERATING = {
    "/v1/completions": {"prompt": PROMPT},
    "/v1/chat/completions": {"messages": TURN},
    "/v1/responses": {"input": TEXT, "max_output_tokens": 1},
    "/v1/messages": {"messages": TURN},
    "/score": {"input": "abc", "context": TEXT},
}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("alice\nbob\n# a team\ncarol group=red\ndave  group=red\nerin group=blue\nboss group=red\n")
    return file


def keyed_live(key_file, *, limits=None, **ring):
    served = serve_model(make_engine(), "tiny", limits=Limits())
    return Live(create_app([served], limits=limits, keys=KeyRing(file=key_file, admin_keys=["boss"], **ring)))


@pytest.fixture(scope="module")
def keyed(key_file):
    with keyed_live(key_file) as live:
        yield live


def ask(live, key, route="/v1/completions", **fields):
    body = GENERATING[route] | {"model": "tiny"} | ({} if "/score" in route or "resp" in route else {"max_tokens": 1})
    return httpx.post(live.url + route, json=body | fields, headers={"x-api-key": key}, timeout=60)


def cached(live, key, **fields):
    return ask(live, key, **fields).json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_key_does_not_learn_from_cached_tokens_what_another_asked(keyed):
    assert [cached(keyed, "alice"), cached(keyed, "alice")] == [0, 192]
    assert [cached(keyed, key) for key in ("bob", "carol", "boss")] == [0, 0, 0]


def test_keys_of_one_group_share_what_is_cached(keyed):
    prompt = PROMPT[::-1]
    assert [cached(keyed, key, prompt=prompt) for key in ("carol", "dave", "erin", "alice")] == [0, 192, 0, 0]


def test_a_salt_of_the_client_holds_within_its_key(keyed):
    prompt = [n % 100 for n in range(200)]
    own = [cached(keyed, "alice", prompt=prompt, cache_salt=salt) for salt in ("x", "x", "y")]
    assert own == [0, 192, 0]
    assert cached(keyed, "bob", prompt=prompt, cache_salt="x") == 0
    sent = Sender("bob", "bob").salt("x")
    assert cached(keyed, "alice", prompt=prompt, cache_salt=sent) == 0


def test_all_keys_share_where_the_server_is_told_so(key_file):
    with keyed_live(key_file, shares_prefixes=True) as live:
        assert [cached(live, "alice"), cached(live, "bob"), cached(live, "bob", cache_salt="x")] == [0, 192, 0]


@pytest.mark.parametrize("route", GENERATING)
def test_every_route_that_computes_a_prompt_keeps_keys_apart(keyed, monkeypatch, route):
    """By the engine's requests, whose salt is all that its prefix cache, its spill and its sharing in flight ask."""
    asked, submit = [], keyed.served.worker.submitted

    def spy(request, on_event):
        asked.append(request)
        return submit(request, on_event)

    monkeypatch.setattr(keyed.served.worker, "submitted", spy)
    for key in ("alice", "bob", "alice"):
        assert ask(keyed, key, route).status_code == 200
    first, other, again = asked
    assert first.cache_salt == again.cache_salt != other.cache_salt and "" not in (first.cache_salt, other.cache_salt)
    assert first.key == again.key != other.key
    assert ask(keyed, "alice", route, cache_salt="more").status_code == 200
    assert asked[-1].cache_salt not in (first.cache_salt, "more")


@pytest.mark.parametrize("route", [route for route in GENERATING if route != "/score"])
def test_no_key_goes_before_others_but_the_admins(keyed, route):
    refused = ask(keyed, "alice", route, priority=-100)
    assert refused.status_code == 400 and "takes an admin key; give 0 or more" in refused.json()["error"]["message"]
    assert ask(keyed, "alice", route, priority=3).status_code == 200
    assert ask(keyed, "boss", route, priority=-100).status_code == 200


def test_how_urgent_a_key_may_be_is_the_servers_to_say(key_file):
    with keyed_live(key_file, limits=Limits(most_urgent_priority=-5)) as live:
        assert ask(live, "alice", priority=-5).status_code == 200
        assert "give -5 or more" in ask(live, "alice", priority=-6).json()["error"]["message"]


def test_without_keys_there_is_one_client_and_nothing_to_keep_apart(http):
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 1, "priority": -100, "cache_salt": "no keys"}
    done = [http.post("/v1/completions", json=body).json()["usage"]["prompt_tokens_details"] for _ in range(2)]
    assert [one["cached_tokens"] for one in done] == [0, 192]
    assert Sender().salt(None) == "" and Sender().salt("x") == "x"


def test_only_a_whole_group_mark_makes_a_group(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one group=a\ntwo words\nthree group=\nfour group=a b\n")
    assert read_key_file(file) == {"one": "a", "two words": None, "three group=": None, "four group=a b": None}


def kept(store, client, count, size=0):
    """Ids of answers that a client keeps."""
    ids = [f"{client} {len(store)} {n}" for n in range(count)]
    for name in ids:
        store.add({"id": name, "output": [{"id": f"item of {name}"}]}, [{"content": "x" * size}], client)
    return ids


@pytest.mark.parametrize("limits", [{"max_stored_responses": 6}, {"max_stored_bytes": 6000}])
def test_no_key_makes_the_server_forget_anothers_answers(limits):
    store = ResponseStore(Limits(**limits))
    own = kept(store, "alice", 2, 100)
    other = kept(store, "bob", 50, 900)
    assert all(store.get(name, "alice") and store.item(f"item of {name}", "alice") for name in own)
    left = [name for name in other if store.get(name, "bob")]
    assert left and left == other[-len(left) :]
    assert len(store) == len(left) + 2 and store.num_bytes <= store.limits.max_stored_bytes
    for name in left:
        assert store.delete(name, "bob")
    assert len(store) == 2 and store.num_bytes == sum(store.get(name, "alice").num_bytes for name in own)


def test_an_answer_that_is_too_large_to_keep_drops_itself_alone():
    store = ResponseStore(Limits(max_stored_bytes=5000))
    own = kept(store, "alice", 2, 100)
    assert not store.get(kept(store, "bob", 1, 9000)[0], "bob")
    assert len(store) == 2 and all(store.get(name, "alice") for name in own)
