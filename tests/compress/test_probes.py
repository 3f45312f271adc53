"""Random probes of evidence: each batch has projections of its own, or their errors would add up."""

import torch

from cases import EXAMPLE, tiny_network, tiny_source
from reverie.compress.evidence import taylor_scores
from reverie.core.source import Source
from reverie.graph import probe


def test_every_batch_has_projections_of_its_own() -> None:
    network, once = tiny_network(), tiny_source(count=8)
    structure = probe(network.body, EXAMPLE)
    twice = Source("twice", torch.cat([once.images, once.images]))
    alone, both = (taylor_scores(network, structure, one, batch_size=8, probes=1) for one in (once, twice))
    # The same images twice: with the same projections twice the mean would be that of once.
    assert all(not torch.allclose(alone[group], both[group]) for group in alone)
