"""Answers in several turns: exact, whoever else is drawn, and whatever their tools do."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_rl import RECURRENT, finished, lines_of
from tiny_text import END
from tiny_tools import ADD, CALLS, NOTE, TEMPLATE, calling_tokenizer, drawn, rollouts_of, tools_request, write_start

from hyla.cli.app import app
from hyla.engine.runner import Runner
from hyla.errors import ConfigError
from hyla.rl.conversations import Conversations
from hyla.rl.rows import rows_of
from hyla.rl.run import open_rl_run
from hyla.rl.samples import RoundFile

LETTERS = {END: 6.0, **{97 + n: 6.0 for n in range(12)}}
"""One of them is likelier than all calls together, whatever stands before it."""
ADD_ID, NOTE_ID = 257 + CALLS.index(ADD), 257 + CALLS.index(NOTE)


def samples_of(run, number=0):
    return list(RoundFile(run.folder / "rollouts" / f"round-{number:06d}.jsonl").read().values())


@pytest.mark.parametrize("mixer, dtype", list(zip(RECURRENT, ("bf16", "fp32", "bf16", "fp32"))))
def test_every_turn_has_the_trainers_log_probabilities(mixer, dtype, tmp_path, monkeypatch):
    widths, turns, step, read = set(), [], Runner.step, Conversations.read
    monkeypatch.setattr(Runner, "step", lambda self, parts: widths.add(len(parts)) or step(self, parts))

    def seen(self, one, done, params):
        turns.append((len(one.drawn), len(one.ids) - len(one.added_ids), done.usage.cached_tokens))
        return read(self, one, done, params)

    monkeypatch.setattr(Conversations, "read", seen)
    run = finished(tmp_path / "run", tools_request(write_start(tmp_path, mixer), dtype=dtype, steps=2))
    updates, rounds = lines_of(run.folder, "updates"), lines_of(run.folder, "rounds")
    for line in updates:
        assert line["tokens"] > 50
        assert (line["ratio_min"], line["ratio_max"], line["exact_ratios"]) == (1.0, 1.0, 1.0)
    assert len(updates) == 2 and updates[0]["loss"] != updates[1]["loss"]
    # It happened: calls, errors, turns behind turns whose states were there still, drafts of both kinds, batches.
    assert all(line["turns"] > 1.2 and line["tool_calls"] > line["tool_errors"] > 0 for line in rounds)
    assert max(len(sample.turns) for sample in samples_of(run)) > 2
    later = [(before, cached) for number, before, cached in turns if number]
    assert len(later) > 10
    assert all(cached >= (before - 1) // 64 * 64 > 0 for before, cached in later)
    assert sum(line["drafted_tokens"] for line in rounds) > sum(line["accepted_tokens"] for line in rounds) > 0
    assert len(widths) > 2


def test_ids_stay_as_they_were_drawn_and_only_they_are_learnt(tmp_path):
    samples = [one for one in drawn(tmp_path / "run", tools_request(write_start(tmp_path))) if len(one.turns) > 1]
    tokenizer = calling_tokenizer()
    assert len(samples) > 3
    for sample in samples:
        rows = rows_of([sample], [1.0], torch.ones(len(sample.token_ids), dtype=torch.float64))
        assert rows.targets_T[rows.is_learnt_T].tolist() == list(sample.token_ids)
        assert rows.rollout_T[rows.is_learnt_T].tolist() == list(sample.logprobs)
        assert sum(turn.num_tokens for turn in sample.turns) == len(sample.token_ids)
        for before, turn in zip(sample.turns, sample.turns[1:]):
            results = "".join(f"tool:{result['content']}<|end|>\n" for result in before.results)
            written = tokenizer.decode(turn.added_ids, skip_special_tokens=False)
            assert written == f"\n{results}assistant:"
            assert before.results
    (first, *_), others = samples, [(*read, *own) for sample in samples for read, own in sample.pieces()]
    whole = rows_of([first], [1.0], torch.ones(len(first.token_ids), dtype=torch.float64))
    ids = [token for part in others[: len(first.turns)] for token in part]
    assert [*whole.tokens_T.tolist(), first.token_ids[-1]] == ids


PLAIN = {"memory": 8 << 20, "max_num_sequences": 1, "prefix_cache": False, "speculation": "off"}


def test_a_conversation_is_the_same_alone_and_among_others(tmp_path):
    folder = write_start(tmp_path)
    among = drawn(tmp_path / "among", tools_request(folder, tools={"processes": 2}))
    alone = drawn(tmp_path / "alone", tools_request(folder, rollout={"engine": PLAIN}))
    counts = {"cached_tokens": 0, "drafted_tokens": 0, "accepted_tokens": 0}
    assert [replace(one, **counts) for one in among] == [replace(one, **counts) for one in alone]
    assert sum(one.cached_tokens for one in among) > 0 == sum(one.cached_tokens for one in alone)


def test_a_model_that_never_calls_draws_what_it_draws_without_tools(tmp_path):
    request = tools_request(write_start(tmp_path, likely=LETTERS), rollout={"max_tokens": 6})
    with rollouts_of(tmp_path / "run", request) as rollouts:
        found = [sample for group in rollouts.round(0) for sample in group]
        rollouts.file(0).path.unlink()
        rollouts.conversations = None
        without = [sample for group in rollouts.round(0) for sample in group]
    assert all(len(one.turns) == 1 and not one.turns[0].results for one in found)
    assert {one.finish_reason for one in found} == {"stop", "length"}
    same = ("prompt_ids", "token_ids", "logprobs", "text", "finish_reason")
    assert [[getattr(one, name) for name in same] for one in found] == [
        [getattr(one, name) for name in same] for one in without
    ]
    assert found[0].turns[0].message == {"role": "assistant", "content": found[0].text}


WAITS = """
import os, time
def note(text: str) -> str:
    end = time.monotonic() + 50
    while not os.path.exists(os.path.join(os.path.dirname(__file__), "go")):
        if time.monotonic() > end:
            return "nobody came"
        time.sleep(0.01)
    return "went"
"""


def test_while_a_tool_works_others_are_drawn(tmp_path):
    folder = write_start(tmp_path, likely={97: 3.0, 98: 3.0, END: 3.0, NOTE_ID: 4.0})
    (folder / "tools.py").write_text(WAITS)
    request = tools_request(folder, tools={"timeout_seconds": 60.0})
    with rollouts_of(tmp_path / "run", request) as rollouts:
        parts = rollouts.sampled(0, rollouts._keys())
        first = next(iter(parts))
        assert all(len(one.turns) == 1 for one in first)
        (folder / "go").touch()
        rest = [one for part in parts for one in part]
    results = [result["content"] for one in rest for turn in one.turns for result in turn.results]
    assert len(first) + len(rest) == 12 and set(results) >= {"went"} and "nobody came" not in results


def test_a_tool_that_hangs_is_an_error_that_the_model_reads(tmp_path):
    folder = write_start(tmp_path, likely={97: 3.0, 98: 3.0, END: 3.0, ADD_ID: 4.0})
    (folder / "tools.py").write_text("import time\ndef add(a: int, b: int):\n    time.sleep(60)\n")
    tools, rollout = {"timeout_seconds": 0.2, "max_turns": 3}, {"tasks_per_round": 2, "group_size": 3}
    run = finished(tmp_path / "run", tools_request(folder, tools=tools, rollout=rollout, steps=1))
    (line,) = lines_of(run.folder, "rounds")
    assert line["tool_calls"] == line["tool_errors"] > 0 == line["left_out"]
    results = [result for one in samples_of(run) for turn in one.turns for result in turn.results]
    assert {result["content"] for result in results} == {"error: took longer than 0.2 s"}
    assert lines_of(run.folder, "updates")[0]["exact_ratios"] == 1.0


def test_turns_and_tokens_have_limits(tmp_path):
    folder = write_start(tmp_path)
    found = drawn(tmp_path / "turns", tools_request(folder, tools={"max_turns": 2}))
    ended = [one for one in found if one.finish_reason == "turns"]
    assert ended and all(len(one.turns) == 2 for one in ended)
    assert all(one.turns[-1].message["tool_calls"] and not one.turns[-1].results for one in ended)
    assert all(one.reward is not None for one in found)

    rollout = {"max_tokens": 12, "group_size": 12}
    found = drawn(tmp_path / "short", tools_request(folder, tools={"turn_tokens": 9}, rollout=rollout))
    assert all(turn.num_tokens <= 9 for one in found for turn in one.turns)
    assert max(len(one.token_ids) for one in found if len(one.turns) > 1) == 12
    assert any(one.turns[-1].num_tokens == 9 and one.finish_reason == "length" for one in found)

    longest = max(len(one.prompt_ids) for one in found)
    engine = {"memory": 8 << 20, "context_len": longest + 70}
    found = drawn(tmp_path / "full", tools_request(folder, rollout={"engine": engine}))
    sizes = [sum(len(read) + len(own) for read, own in one.pieces()) for one in found]
    full = [one for one in found if one.finish_reason == "length" and one.turns[-1].results]
    assert max(sizes) <= longest + 70 and full, "results that leave no room for another turn"
    assert full[0].conversation([])[-1]["role"] == "tool" and full[0].reward is not None


def test_what_looks_like_a_call_and_is_none_is_an_answer_and_counted(tmp_path):
    unread = {257 + len(CALLS) - 1: 4.0, END: 4.0}
    found = drawn(tmp_path / "run", tools_request(write_start(tmp_path, likely=unread)))
    wrong = [one for one in found if "<tool_call>add(20, 3)</tool_call>" in one.text]
    assert wrong and all(len(one.turns) == 1 and one.turns[0].num_errors == 1 for one in wrong)
    assert all(one.turns[0].message["content"] == one.text for one in wrong)


def test_results_that_the_template_fails_on_end_an_answer_without_a_reward(tmp_path):
    folder = write_start(tmp_path, likely={97: 3.0, 98: 3.0, END: 3.0, NOTE_ID: 4.0})
    (folder / "tools.py").write_text("def note(text: str):\n    return 'planted'\n")
    template = TEMPLATE.replace(
        "{{ m.content }}", "{{ raise_exception('no') if m.content == 'planted' else m.content }}"
    )
    (folder / "start" / "chat_template.jinja").write_text(template)
    found = drawn(tmp_path / "run", tools_request(folder))
    wrong = [one for one in found if one.turns[0].results]
    assert 0 < len(wrong) < len(found)
    assert {one.problem for one in wrong} == {"the engine ended it: the chat template fails on results of its tools"}
    assert all(len(one.turns) == 1 and one.reward is None for one in wrong)


def test_from_a_recipe_by_the_command_line(tmp_path):
    from typer.testing import CliRunner

    folder = write_start(tmp_path)
    (folder / "rl.toml").write_text(
        '[model]\nstart_from = "start"\n[rl]\ntasks = "tasks.jsonl"\nreward = { function = "reward.py:talks" }\n'
        "[rl.rollout]\ntasks_per_round = 2\ngroup_size = 2\nmax_tokens = 40\n"
        '[rl.rollout.tools]\nfile = "tools.py"\n[train]\nsteps = 1\noptimizer = "adamw"\n'
    )
    done = CliRunner().invoke(app, ["rl", str(folder / "rl.toml"), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert " turns, " in done.output and " tool calls" in done.output and "ratio 1" in done.output


def test_what_cannot_work_is_named_before_anything_is_sampled(tmp_path):
    folder = write_start(tmp_path)
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": "x"}) + "\n")
    request = tools_request(folder)
    wrong = request.model_copy(update={"rl": request.rl.model_copy(update={"tasks": str(folder / "prompts.jsonl")})})
    with pytest.raises(ConfigError, match=r"line 1: with rl.rollout.tools a task is a conversation: give messages"):
        open_rl_run(tmp_path / "run", wrong)
    assert not (tmp_path / "run").exists()
    open_rl_run(tmp_path / "run", request)
    (folder / "tools.py").write_text("def other(): ...\n")
    with pytest.raises(ConfigError, match=r"tools.py is not what the run"):
        open_rl_run(tmp_path / "run", request)


ONCE = """
def once(answer, row, messages):
    turns = [one for one in messages if one["role"] == "assistant"]
    results = [one["content"] for one in messages if one["role"] == "tool"]
    first = len(turns[0].get("tool_calls", ())) == 1 and results == ["23"]
    return 0.5 * first + 0.5 * (first and len(turns) == 2 and "tool_calls" not in turns[1] and not turns[1]["content"])
"""


@pytest.mark.slow
def test_chance_learns_to_call_one_tool_once_and_to_stop_then(tmp_path):
    likely = {97: 2.0, 98: 2.0, END: 2.0, **{257 + number: 2.0 for number in range(len(CALLS))}}
    folder = write_start(tmp_path, likely=likely)
    (folder / "reward.py").write_text(ONCE)
    request = tools_request(
        folder,
        tools={"max_turns": 3},
        rollout={"group_size": 12, "max_tokens": 24, "temperature": 1.0},
        policy={"drop_equal_groups": True},
        reward={"function": f"{folder / 'reward.py'}:once"},
        steps=30,
        seed=0,
        learning_rate=1.5e-2,
        checkpoint_every=1000,
    )
    run = finished(tmp_path / "run", request)
    rewards = [line["reward"] for line in lines_of(run.folder, "rounds")]
    assert sum(rewards[:3]) / 3 < 0.2 and sum(rewards[-3:]) / 3 > 0.7
    assert all(line["exact_ratios"] == 1.0 for line in lines_of(run.folder, "updates"))
