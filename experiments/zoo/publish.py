"""After training: `python experiments/zoo/publish.py` seals every card and writes the table in docs/zoo.md.

A sealed card carries the SHA-256 of its weights, so a damaged or exchanged file is refused when it is loaded.
"""

import argparse
import hashlib
import json
from pathlib import Path

from reverie.zoo.embedded import cards_table, embedded_names

BEGIN = "<!-- cards: written by experiments/zoo/publish.py -->\n"
END = "<!-- end of cards -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path("src/reverie/zoo/weights"))
    parser.add_argument("--page", type=Path, default=Path("docs/zoo.md"))
    options = parser.parse_args()
    for name in embedded_names():
        card_path = options.weights / f"{name}.json"
        card = json.loads(card_path.read_text())
        card["weights_sha256"] = hashlib.sha256((options.weights / f"{name}.safetensors").read_bytes()).hexdigest()
        card_path.write_text(json.dumps(card, indent=2) + "\n")
    before, _, rest = options.page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    options.page.write_text(before + BEGIN + cards_table() + END + after)


if __name__ == "__main__":
    main()
