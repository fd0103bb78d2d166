"""Result files: what is read, and which ones are refused by name."""

import pytest
from made_up import decode_file, language_file, write

from hyla.errors import CheckpointError, ConfigError
from hyla.study.results import DecodeResult, LanguageResult, read_result, read_results


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    write(tmp_path, "b", decode_file())
    write(tmp_path, "a", language_file(layers_inside={"sink_mass": [0.1, 0.2, 0.0, 0.4]}))

    language, decode = read_results(tmp_path)

    assert isinstance(language, LanguageResult) and isinstance(decode, DecodeResult)
    assert (language.name, language.run.arm, language.run.size_name) == ("a", "3:1", "48 x 4")
    assert language.run.rest == {"batch_tokens": 4096}
    assert language.figures.test_bits == 2.01 and language.figures.curve[0] == (50, 204_800, 2.4)
    assert language.figures.layers_inside["sink_mass"][3] == 0.4
    assert decode.figures.ms_per_token == {"1024": 2.0, "16384": 4.0} and decode.name == "b"


def test_a_run_that_diverged_has_no_bits(tmp_path):
    file = write(tmp_path, "a", language_file() | {"validation_bits": None, "test_bits": None})

    assert read_result(file).figures.test_bits is None


def changed(part, **values):
    found = language_file()
    (found["run"] if part == "run" else found).update(values)
    return found


@pytest.mark.parametrize(
    ("found", "error", "text"),
    [
        (changed("figures", losses=[1]), ConfigError, "losses"),
        (changed("figures", tasks={"recall": 1.2}), ConfigError, "tasks.recall = 1.2"),
        (changed("figures", flops=0), ConfigError, "flops = 0"),
        (changed("figures", test_bits="two"), ConfigError, "test_bits = 'two'"),
        (changed("run", version=2), ConfigError, "version 2, and this Hyla's are of version 1"),
        (changed("run", kind="speech"), ConfigError, "kind 'speech'; a study has language, decode"),
        (changed("run", seed=-1), ConfigError, "seed = -1"),
        ({"test_bits": 2.0}, CheckpointError, "no table 'run'"),
        ("[1]", CheckpointError, "holds a JSON list"),
        ('{"run": {', CheckpointError, "not valid JSON"),
    ],
)
def test_a_broken_file_is_named(tmp_path, found, error, text):
    file = write(tmp_path, "the-broken-one", found)

    with pytest.raises(error) as raised:
        read_results(tmp_path)

    assert str(file) in str(raised.value) and text in str(raised.value)


@pytest.mark.parametrize("name", ["flops", "test_bits", "machine"])
def test_a_file_without_a_figure_is_named(tmp_path, name):
    found = language_file()
    del found[name]

    with pytest.raises(ConfigError, match=f"a.json: LanguageFigures: {name}"):
        read_result(write(tmp_path, "a", found))
