"""Random generators from (item id, run seed, view): the same draw on every worker and after every restart."""

import hashlib

import torch


def seed_for(item_id: str, run_seed: int, view: int) -> int:
    """A seed from 0 to 2**63 - 1, spread evenly (BLAKE2b), for one view of one item.

    Args:
        item_id: stable name of the item; any text.
        run_seed: the seed of the run.
        view: number of the view or epoch.
    """
    # The numbers hold no colon, so no two triples give the same text, whatever the id holds.
    text = f"{run_seed}:{view}:{item_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator_for(item_id: str, run_seed: int, view: int) -> torch.Generator:
    """A CPU generator, freshly seeded with `seed_for`."""
    return torch.Generator().manual_seed(seed_for(item_id, run_seed, view))
