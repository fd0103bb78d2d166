"""`hyla cost`: tables, JSON, CSV, plots, and one clear error for each mistake."""

import csv
import io
import json
import resource
import subprocess
import sys

import pytest
from matplotlib.image import imread
from test_verbs import TINY, failure, run
from tiny_model import save_tiny_folder

from hyla.cli.cost import _print, parse_context
from hyla.cli.cost_tables import count, seconds, short, tokens
from hyla.cost import DEVICES, Question, count_parameters, find_target
from hyla.models.formats.presets import presets

CPU_SECONDS = 20.0
"""Of the whole command, interpreter included."""


def test_the_command_answers_without_pytorch():
    code = (
        "import sys; from hyla.cli.app import app\n"
        "try:\n    app(['cost', 'kimi-linear-48b-a3b', '--vs-full', '--context', '1m', '--device', 'h200'])\n"
        "except SystemExit as end:\n    assert end.code in (0, None)\n"
        "print('torch loaded:', 'torch' in sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "torch loaded: False" in done.stdout and "all full attention" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_SECONDS


def test_json_holds_every_model_and_comparison_with_units_in_the_names():
    status, text = run(
        "cost", "kimi-linear-48b-a3b", "Qwen3-32B", "--context", "4k,1m", "--device", "H200", "--devices", 4, "--price",
        "3.5", "--prompt-tokens", 8000, "--output-tokens", 500, "--tensor", 4, "--train-tokens", "1e12", "--json",
    )  # fmt: skip
    found = json.loads(text)
    kimi, qwen = found["models"]
    assert status == 0 and kimi["parameters"]["total"] == 49_122_681_728
    assert kimi["contexts"][1]["cache_bytes"] == 8064 * 2**20 + 43_417_600
    assert qwen["contexts"][0]["token_seconds"] > kimi["contexts"][0]["token_seconds"]
    assert qwen["contexts"][0]["price_per_million_tokens"] > kimi["contexts"][0]["price_per_million_tokens"] > 0
    assert kimi["task"]["price"] > 0 and kimi["rank"]["num_ranks"] == 4 and kimi["training"]["hours"] > 0
    (compared,) = found["comparisons"]
    assert compared["first_is_cheaper_from_tokens"]["memory"] == 171
    assert len(compared["second_over_first"]) == 2


@pytest.mark.parametrize("name", presets())
def test_every_preset_works_on_a_device_and_against_its_twin(name):
    status, text = run("cost", name, "--vs-full", "--device", "b200", "--devices", 16, "--context", "128k", "--json")
    model, twin = json.loads(text)["models"]
    assert status == 0 and model["parameters"]["total"] == count_parameters(find_target(name).config).total
    assert model["contexts"][0]["decode_bytes"] > 0 and twin["contexts"][0]["largest_batch"] > 0


def test_tables_say_what_was_asked_for(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, text = run(
        "cost", "qwen3-next-80b-a3b", "--context", "8k,512k", "--device", "h200", "--price", "2", "--tensor", "2",
        "--train-length", "4096", "--budget-flops", "1e22", "--prompt-tokens", "1000",
    )  # fmt: skip
    assert status == 0
    assert "79.7 B, active 3.87 B" in text and "12x (3x gated delta, attention)" in text
    assert "does not fit" in text and "warning: Qwen3-Next-80B-A3B: the weights need at least 2 x h200" in text
    assert "warning: Qwen3-Next-80B-A3B is declared for 262,144 tokens" in text
    assert "tensor 2 x expert 2 x pipeline 1" in text and "by 6 N" in text and "1,000 tokens read, 1 written" in text
    compared = run("cost", "qwen3.5-9b", "qwen3-8b")[1]
    assert "Qwen3-8B over Qwen3.5-9B" in compared and "Qwen3.5-9B is cheaper from" in compared


def test_csv_has_a_row_for_each_model_and_context():
    status, text = run("cost", "qwen3-8b", "qwen3.5-9b", "--context", "1000,2k,3k", "--csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert status == 0 and [row["context_tokens"] for row in rows] == ["1000", "2048", "3072"] * 2
    assert rows[3]["name"] == "Qwen3.5-9B" and float(rows[3]["decode_bytes"]) > 1e9


def test_a_context_above_the_limit_is_computed_with_a_warning_beside_the_csv(capsys):
    _print([find_target("qwen3-8b")], Question(contexts=(1 << 20,)), as_json=False, as_csv=True, plot=None)
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert printed.err == ("warning: Qwen3-8B is declared for 40,960 tokens; figures beyond that are arithmetic only\n")


@pytest.mark.parametrize("options", [(), ("--device", "h20"), ("--device", "h20", "--devices", "8", "--price", "1")])
def test_a_plot_is_drawn_with_axes_and_curves(tmp_path, options):
    file = tmp_path / "cost.png"
    status, text = run("cost", "qwen3.5-9b", "--vs-full", "--context", "64k", "--plot", file, *options)
    assert status == 0 and f"drawn: {file}" in text.replace("\n", "")
    image = imread(file)
    assert image.shape[1] > 1200 and len({tuple(pixel) for pixel in image[::7, ::7].reshape(-1, 4)}) > 10


def test_folders_and_recipes_are_costed_as_presets_are(tmp_path):
    folder = tmp_path / "tiny"
    save_tiny_folder(folder)
    recipe = tmp_path / "small.toml"
    recipe.write_text(TINY)
    status, text = run("cost", folder, recipe, "--json")
    names = [model["name"] for model in json.loads(text)["models"]]
    assert status == 0 and names == ["tiny", "small"]
    assert json.loads(text)["models"][1]["mixers"] == "KDA, MLA"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kimi-linear-48b",), "did you mean Kimi-Linear-48B-A3B"),
        (("qwen3-8b", "--device", "h300"), "unknown device 'h300'; did you mean h"),
        (("qwen3-8b", "--device", "h200", "--devices", "0"), "0 devices: give at least one"),
        (("qwen3-8b", "--device", "h200", "--price", "-1"), "price -1.0 per device-hour must be zero or more"),
        (("qwen3-8b", "--price", "1"), "a price needs a device"),
        (("qwen3-8b", "--context", "12q"), "'12q' is not a context length"),
        (("qwen3-8b", "--context", "0"), "a context of 0 tokens"),
        (("qwen3-8b", "--weights", "fp5"), "unknown weights 'fp5'; there are fp32, bf16, fp8, int4"),
        (("qwen3-8b", "--arithmetic", "exact"), "unknown arithmetic 'exact'"),
        (("qwen3-8b", "--tensor", "7"), "tensor = 7 does not divide num_heads = 32"),
        (("qwen3-8b", "--plot", "cost.doc"), "cost.doc cannot be drawn"),
        (("qwen3-8b", "--budget-flops", "-5"), "a budget of -5.0 FLOPs buys nothing"),
        (("qwen3-8b", "--output-tokens", "0"), "output_tokens = 0 must be at least 1"),
        ((), "name at least one preset, folder or recipe"),
    ],
)
def test_each_mistake_is_one_line(monkeypatch, capsys, arguments, message):
    status, text = failure(monkeypatch, capsys, "cost", *arguments)
    assert status == 1 and text.startswith("error: ") and text.count("\n") == 1 and message in text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "is not valid JSON"),
        ("config.json", "[1]", "it must be an object"),
        ("config.json", '{"model_type": "gpt2"}', "unknown model_type 'gpt2'"),
        ("config.json", '{"model_type": "qwen3", "hidden_size": "wide"}', "qwen3"),
        ("other.json", "{}", "has no config.json"),
    ],
)
def test_a_config_that_does_not_parse_is_one_line(monkeypatch, capsys, tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    status, text = failure(monkeypatch, capsys, "cost", tmp_path)
    assert status == 1 and text.startswith("error: ") and text.count("\n") == 1 and message in text


@pytest.mark.parametrize(
    ("content", "message"),
    [("[recipe", "is not TOML"), ("[recipes]\n", "unknown table"), ("[recipe]\npattern = 'X'\n", "pattern")],
)
def test_a_recipe_that_does_not_parse_is_one_line(monkeypatch, capsys, tmp_path, content, message):
    file = tmp_path / "r.toml"
    file.write_text(content)
    status, text = failure(monkeypatch, capsys, "cost", file)
    assert status == 1 and text.startswith("error: ") and text.count("\n") == 1 and message in text
    (tmp_path / "notes.txt").write_text("")
    assert "is a file; give a folder" in failure(monkeypatch, capsys, "cost", tmp_path / "notes.txt")[1]


def test_calibration_is_stored_and_used(monkeypatch, tmp_path):
    from hyla.cost import calibrate

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibrate, "calibrate", lambda: DEVICES["epyc-2core"])
    status, text = run("cost", "--calibrate")
    assert status == 0 and "use it with --device this" in text
    status, text = run("cost", "qwen3-0.6b", "--device", "this", "--json")
    assert status == 0 and json.loads(text)["models"][0]["arithmetic"] == "hyla"


def test_quantities_are_written_for_people():
    assert [parse_context(text) for text in ("300", "4K", " 1.5m ")] == [300, 4096, 3 << 19]
    assert [tokens(value) for value in (1 << 20, 3 << 19, 1000)] == ["1m", "1536k", "1,000"]
    assert [short(value, "B") for value in (None, 12, 8_499_101_696)] == ["-", "12 B", "8.5 GB"]
    assert [count(value) for value in (63_700_992, 1_012_231_160_320)] == ["63.7 M", "1,012 B"]
    assert [seconds(value) for value in (None, 2.5e-3, 95, 7300)] == ["-", "2.5 ms", "95 s", "2.03 h"]
