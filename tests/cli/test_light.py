"""The command answers before torch would have been imported."""

import subprocess
import sys

HEAVY = ("torch", "numpy", "scipy", "onnx", "onnxruntime", "PIL", "pydantic", "timm")


def test_nothing_heavy_is_imported_on_the_way_to_the_help() -> None:
    code = (
        "import sys\n"
        "from reverie.cli.main import main\n"
        "status = main(['--help'])\n"
        f"loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "sys.exit(f'loaded {loaded}' if loaded or status else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: reverie" in done.stdout
    assert done.stderr == ""


def test_a_bad_option_is_refused_without_torch() -> None:
    code = (
        "import sys\n"
        "from reverie.cli.main import main\n"
        "status = main(['evaluate', 'zoo:fashion-vgg'])\n"
        "sys.exit(0 if status == 2 and 'torch' not in sys.modules else 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
