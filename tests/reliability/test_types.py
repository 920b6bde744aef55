"""Every type of Arrow in every file that holds it, one file and two, is read, or refused in one sentence."""

import numpy as np

from test_arrow import REFUSED, TYPES, answer, one_file, two_files, write


def test_every_type_of_arrow_is_read_or_refused_alike(tally, tmp_path):
    tried, wrong = 0, []
    for suffix in (".parquet", ".feather", ".arrow"):
        for name in TYPES:
            folder = tmp_path / f"{tried} {name}{suffix}"
            folder.mkdir(exist_ok=True)
            if not write(name, folder / f"1{suffix}"):
                continue
            answers = [answer(one_file, folder / f"1{suffix}")]
            if suffix == ".parquet":
                assert write(name, folder / "2.parquet")
                answers.append(answer(two_files, folder))
            expected = str if name in REFUSED else np.ndarray
            tried += len(answers)
            if not all(isinstance(a, expected) for a in answers) or (expected is str and len(set(answers)) > 1):
                wrong.append((suffix, name, answers))
    promise = "A column of any type of Arrow is read, or refused in the same sentence, from one file and from two"
    tally("Bad input", promise, tried, tried - len(wrong), types=len(TYPES), refused=len(REFUSED))
    assert not wrong, wrong[:3]
