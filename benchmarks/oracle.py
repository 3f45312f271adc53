"""What each unit of a network is worth, exactly and by every cheap score: `python benchmarks/oracle.py NAME FILE`.

Reads the folder `data` where it runs, as `reverie bench choose` does. Minutes to half an hour of one core.
"""

import sys
from pathlib import Path

from reverie.bench.evidence import oracle_data
from reverie.core.environment import environment
from reverie.core.store import write_json

if __name__ == "__main__":
    name, file = sys.argv[1], Path(sys.argv[2])
    write_json(file, {**environment(), **oracle_data(name)})
