"""GenEval's prompts are drawn again to the byte."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from apex_cli.evaluation.geneval_prompts import CLASSES, SHA256, evaluation_metadata, prompts, suite


def test_the_official_file():
    text = evaluation_metadata()
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256
    tags = Counter(json.loads(line)["tag"] for line in text.splitlines())
    assert list(tags.values()) == [80, 99, 80, 94, 100, 100]
    assert len(prompts()) == 553
    assert len(set(CLASSES)) == 80


def test_other_seeds_are_other_suites():
    assert [len(suite(seed)) for seed in (0, 42, 44)] == [548, 559, 555]
    assert all("colored" not in row["prompt"] and "red person" not in row["prompt"] for row in suite(0))
