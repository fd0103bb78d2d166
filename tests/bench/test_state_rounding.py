"""`python -m bench state_rounding`: its recurrences are the layers' own, and what it rounds is seen."""

from argparse import Namespace

from tiny_rl import write_start

from bench import state_rounding


def test_references_are_near_the_trainer_and_rounded_states_are_not(tmp_path, monkeypatch):
    write_start(tmp_path, "mamba2")
    (tmp_path / "text.txt").write_text("abba baab abab " * 12)
    monkeypatch.setattr(state_rounding, "CHUNKED", ("state-bf16",))
    monkeypatch.setattr(state_rounding, "EVERY", state_rounding.EVERY[:2])
    options = Namespace(
        model=str(tmp_path / "start"), text=tmp_path / "text.txt", length=150, dtype=None, temperature=1.0
    )
    outcome = state_rounding.run(options)
    means = {row["way"]: row["buckets"][512][0] for row in outcome.results}
    assert outcome.passed and means["exact"] == 0.0
    assert 0 < means["fp32, every token"] < 1e-4 < means["state-bf16"] < means["state-bf16, every token"]
