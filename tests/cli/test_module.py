"""`python -m reverie` is the command."""

import subprocess
import sys


def test_the_package_as_a_process() -> None:
    for words, status, said in ((("--version",), 0, ""), (("dream", "zoo:fashion-vgg"), 2, "--out")):
        done = subprocess.run(
            [sys.executable, "-m", "reverie", *words], capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == status
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert bool(done.stdout.strip()) is (status == 0)
