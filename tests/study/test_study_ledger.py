"""The ledger of a study whose file, text or arms change; results are made up, nothing is trained."""

import csv
import json

import pytest
from made_up import language_file
from small_study import STUDY, write_study
from typer.testing import CliRunner

from hyla.cli.app import app
from hyla.errors import CheckpointError, ConfigError
from hyla.study.course import course_of
from hyla.study.decoding import file_of, key
from hyla.study.files import read_study

UNTUNED = STUDY[: STUDY.index("[tuning]")] + STUDY[STUDY.index("[tasks.recall]") :]
TWINS = '[arms.twin]\nlayers = ["kda", "softmax"]\n\n[[points]]'


def course(tmp_path, text=UNTUNED):
    file = write_study(tmp_path, text)
    return course_of(read_study(file), tmp_path / "small", "small")


def finish(course):
    """A result of every run that is missing."""
    for number, job in enumerate(course.missing()):
        figures = language_file(bits=2.0 + 0.01 * number)
        result = {**figures, "run": {**job.key, "arm": job.arm}, "flops": job.flops}
        course.ledger.folder.mkdir(parents=True, exist_ok=True)
        (course.ledger.folder / f"{job.name}.json").write_text(json.dumps(result))


def rows(course):
    course.report()
    with (course.folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_arms_that_are_one_model_share_their_runs_and_keep_their_labels(tmp_path):
    found = course(tmp_path, UNTUNED.replace("[[points]]", TWINS))
    assert len(found.missing()) == len(found.all_jobs()) == 4
    finish(found)
    assert found.missing() == [] and found.strangers() == []
    bits = {(row["arm"], row["seed"]): row["test_bits"] for row in rows(found)}
    assert len(bits) == 6 and bits["twin", "0"] == bits["kda 1:1", "0"] != bits["softmax only", "0"]


def test_an_arm_with_another_label_keeps_its_results(tmp_path):
    finish(course(tmp_path))
    own = UNTUNED.replace('"0:1", "1:1"', '"0:1"').replace("[[points]]", TWINS)
    renamed = course(tmp_path, own)
    assert renamed.missing() == []
    assert {row["arm"] for row in rows(renamed)} == {"softmax only", "twin"}


def test_a_file_with_the_content_of_another_run_is_refused(tmp_path):
    found = course(tmp_path)
    finish(found)
    first, second = sorted(found.ledger.folder.iterdir())[:2]
    first.write_text(second.read_text())
    with pytest.raises(ConfigError, match="but seed = 1 in it, not 0: it is another run's; move it away"):
        found.report()


def test_a_broken_file_is_named_with_a_way_to_go_on(tmp_path):
    found = course(tmp_path)
    finish(found)
    file = min(found.ledger.folder.iterdir())
    file.write_text(file.read_text()[:100])
    with pytest.raises(CheckpointError, match=rf"{file.name} is not valid JSON.* take it away: its run is repeated"):
        found.report()
    file.unlink()
    assert len(found.missing()) == 1


def test_results_of_another_text_are_reported_as_theirs(tmp_path):
    finish(course(tmp_path))
    before = rows(course(tmp_path))
    again = course_of(read_study(tmp_path / "small.toml", ['text="others"']), tmp_path / "small", "small")
    (tmp_path / "others").mkdir()
    for number in range(30):
        (tmp_path / "others" / f"{number}.txt").write_text(f"another text {number} " * 40)
    assert len(again.missing()) == 4 and again.other_text is not None
    assert rows(again) == before
    finish(again)
    assert again.other_text is None and rows(again) != before


def test_measured_decoding_is_no_stranger_and_follows_the_modules(tmp_path):
    text = UNTUNED.replace("dtype", "decode_contexts = [64]\ndtype")
    found = course(tmp_path, text)
    finish(found)
    for arm in found.study.all_arms:
        timed = {"run": key(found.study, arm), "ms_per_token": {"64": 1.0}, "cache_bytes": {"64": 1}}
        file_of(found.ledger, arm).write_text(json.dumps(timed))
    assert found.strangers() == []
    assert sum(row["kind"] == "decode" for row in rows(found)) == 2
    changed = course(tmp_path, f"{text}\n[modules.kda]\nconv_len = 2\n")
    assert not any(row["kind"] == "decode" for row in rows(changed))


def test_an_arm_called_decode_is_an_arm(tmp_path):
    text = UNTUNED.replace("dtype", "decode_contexts = [64]\ndtype").replace("[[points]]", TWINS)
    found = course(tmp_path, text.replace("arms.twin", 'arms."decode"'))
    finish(found)
    assert {row["arm"] for row in rows(found)} == {"softmax only", "kda 1:1", "decode"}


def test_arms_that_come_later_hide_nothing(tmp_path):
    found = course(tmp_path, STUDY)
    assert "Not chosen yet: 0 runs are there" in found.report().read_text()
    while found.missing():
        finish(found)
    later = course(
        tmp_path,
        STUDY.replace(
            "[[points]]",
            '[arms.later]\nlike = "kda 1:1"\nchanges = { "kda.negative_eigenvalues" = true }\n\n[[points]]',
        ),
    )
    assert {row["for"] for row in rows(later)} == {"the table", "its rate"}


def test_where_no_folder_can_be_is_an_error(tmp_path):
    found = course(tmp_path)
    found.folder.write_text("a file")
    with pytest.raises(CheckpointError, match="report"):
        found.report()


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_no_minutes_are_refused(tmp_path, minutes):
    write_study(tmp_path, UNTUNED)
    done = CliRunner().invoke(app, ["study", str(tmp_path / "small.toml"), "--minutes", minutes])
    assert "more than 0" in str(done.exception)
