"""`python -m bench study_statistics`: every case is simulated, and what is not protected does not count."""

from argparse import Namespace

from bench import study_statistics


def test_all_cases_are_simulated():
    outcome = study_statistics.run(Namespace(studies=3))
    found = outcome.results
    assert set(found["laws"]) == set(study_statistics.LAWS) and len(found["planted"]) == 3
    assert set(found["efficiencies"]) == set(study_statistics.PAIRS)
    assert set(found["equal arms"]) == set(study_statistics.NOISES)
    assert all(0 <= share <= 1 for row in found["laws"].values() for share in row.values())
    # Of three studies no share is within 90 and 99%.
    assert outcome.passed is False
