import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_text import END, byte_tokenizer

from hyla.engine.requests.text import Detokenizer, StopStrings

TOKENIZER = byte_tokenizer()


def pieces(ids, tokenizer=TOKENIZER):
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


def test_a_character_appears_with_its_last_byte():
    assert pieces("aé€😀b".encode()) == ["a", "", "é", "", "", "€", "", "", "", "😀", "b", ""]


def test_bytes_that_never_become_a_character_show_at_the_end():
    assert pieces(b"a\xf0\x9f") == ["a", "", "", "\ufffd"]
    assert pieces(b"\xff\xffz") == ["", "", "\ufffd\ufffdz", ""]


@given(st.binary(max_size=40))
def test_pieces_join_to_the_whole_text(raw):
    assert "".join(pieces(list(raw))) == TOKENIZER.decode(list(raw))


class SpaceEater:
    """Decodes like sentencepiece: the space that begins a text is dropped."""

    words = (" the", " cat", "s", " ", "!")

    def decode(self, ids, *, skip_special_tokens=True):
        return "".join(self.words[token] for token in ids).removeprefix(" ")


@given(st.lists(st.integers(0, 4), max_size=12))
def test_a_decoder_that_drops_the_first_space_loses_only_that_one(ids):
    assert "".join(pieces(ids, SpaceEater())) == SpaceEater().decode(ids)


def run_stops(stops, texts):
    finder, shown = StopStrings(stops), []
    for text in texts:
        new, found = finder.push(text)
        shown.append(new)
        if found:
            return shown, True
    return [*shown, finder.flush()], False


def test_a_stop_string_over_several_tokens_is_cut():
    assert run_stops(["END"], ["ab", "cE", "N", "D", "more"]) == (["ab", "c", "", ""], True)


def test_what_was_held_back_appears_when_it_was_no_stop_string():
    assert run_stops(["END"], ["xE", "N", "Ex", "E"]) == (["x", "", "ENEx", "", "E"], False)


def test_the_earliest_of_several_stop_strings_counts():
    assert run_stops(["three", "two"], ["one two three"]) == (["one "], True)


@given(st.lists(st.text("ab", max_size=4), max_size=8), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_stopping_does_not_depend_on_how_the_text_is_split(texts, stops):
    whole = "".join(texts)
    shown, found = run_stops(stops, texts)
    ends = [whole.find(stop) for stop in stops if stop in whole]
    # The first to be completed wins, which for pieces of any size is among those that the whole text holds.
    assert found == bool(ends)
    if not ends:
        assert "".join(shown) == whole
    else:
        assert whole.startswith("".join(shown))
        assert not any(stop in "".join(shown) for stop in stops)


@pytest.mark.parametrize("text", ["", "abc"])
def test_without_stop_strings_nothing_is_held(text):
    assert StopStrings(()).push(text) == (text, False)


def test_a_stop_string_can_be_kept_and_the_shortest_of_one_place_counts():
    assert StopStrings(["END", "EN"], keeps_stop=True).push("xENDy") == ("xEN", True)
    assert StopStrings(["END", "EN"]).push("xENDy") == ("x", True)


def test_a_stop_string_that_is_whole_too_early_passes_and_one_that_only_begins_still_counts():
    finder = StopStrings(["END"])
    assert finder.push("aENDb", may_stop=False) == ("aENDb", False)
    assert finder.push("cEN", may_stop=False) == ("c", False)
    assert finder.push("D") == ("", True)
    short = StopStrings(["E", "END"])
    assert short.push("E", may_stop=False) == ("", False)
    assert short.push("N", may_stop=False) == ("", False)
    assert short.push("X") == ("ENX", False)
    assert short.push("E") == ("", True)


@pytest.mark.parametrize("skip", [True, False])
def test_special_tokens_are_left_out_only_when_asked(skip):
    detokenizer = Detokenizer(TOKENIZER, skip_special_tokens=skip)
    shown = "".join(detokenizer.push(token) for token in [97, END, 98])
    assert shown == ("ab" if skip else "a<|end|>b")


def test_no_stop_string_is_looked_for_in_text_that_is_passed_by():
    finder = StopStrings(["END", "\n\n", "\nUser"])
    assert [finder.pass_by(text) for text in ("a END b E", "N")] == ["a END b E", "N"]
    # None begins in it, and space alone behind it ends nothing.
    assert finder.push("D\n") == ("D", False)
    finder = StopStrings(["END", "\n\n", "\nUser"])
    finder.pass_by("a")
    assert "".join(finder.push(text)[0] for text in ("\n", "\n", " b\n")) == "\n\n b"
    assert finder.push("\nc") == ("", True) and finder.found == "\n\n"
    finder = StopStrings(["\n\n", "\nUser"])
    finder.pass_by("a")
    assert finder.push("\n\nUser: x") == ("\n", True) and finder.found == "\nUser"
