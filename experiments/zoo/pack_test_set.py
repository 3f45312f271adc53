"""Pack the Fashion-MNIST test images for the package: `python experiments/zoo/pack_test_set.py --data FOLDER`.

The same input gives the same file, byte for byte.
"""

import argparse
from pathlib import Path

import data
import numpy as np

LICENSE = """\
Fashion-MNIST
Copyright (c) 2017 Zalando SE, https://tech.zalando.com

The file fashion-mnist-test.npz beside this one holds the 10,000 test images and labels of Fashion-MNIST
(https://github.com/zalandoresearch/fashion-mnist), unchanged but for the container.

The MIT License (MIT)

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of idx files of dataset-fashion-mnist")
    parser.add_argument("--out", type=Path, default=Path("src/reverie/zoo/data"))
    options = parser.parse_args()
    images, labels = data.fashion_mnist(options.data, "test")
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out / "fashion-mnist-test.npz", images=images, labels=labels.astype(np.uint8))
    (options.out / "fashion-mnist-LICENSE.txt").write_text(LICENSE)


if __name__ == "__main__":
    main()
