"""The page about rules runs as it stands."""

import doctest
import re
from pathlib import Path
from typing import Any

import torch

from reverie.graph import RULES

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"


def test_the_page_about_rules_runs():
    names: dict[str, Any] = {}
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    torch.manual_seed(0)
    try:
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)):
            if block.startswith(">>>"):
                example = doctest.DocTestParser().get_doctest(block, names, f"block {number}", str(PAGE), 0)
                runner.run(example, clear_globs=False)
                names.update(example.globs)
            else:
                exec(compile(block, f"{PAGE}, block {number}", "exec"), names)
        assert runner.summarize(verbose=False).failed == 0
    finally:
        RULES.pop(torch.ops.mine.loudness, None)
