"""Random numbers that depend on a seed and a position, and on nothing else.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), in whole numbers
only: the same on every machine, in every Python, and for a token that is computed a second time.
"""

__all__ = ["random_64", "spread_seed"]

_MASK_32 = 0xFFFFFFFF
_MASK_64 = 0xFFFFFFFFFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """One block: four random words of 32 bits from a counter and a key of such words."""
    a, b, c, d = counter
    low, high = key
    for _ in range(_ROUNDS):
        first = a * _MULTIPLIERS[0]
        second = c * _MULTIPLIERS[1]
        a, b, c, d = (
            (second >> 32) ^ b ^ low,
            second & _MASK_32,
            (first >> 32) ^ d ^ high,
            first & _MASK_32,
        )
        low = (low + _WEYL[0]) & _MASK_32
        high = (high + _WEYL[1]) & _MASK_32
    return a, b, c, d


def random_64(seed: int, position: int) -> int:
    """64 random bits for one position.

    Args:
        seed: its lowest 64 bits count.
        position: from 0 to 2**64 - 1; its lowest 64 bits count.
    """
    counter = (position & _MASK_32, (position >> 32) & _MASK_32, 0, 0)
    low, high, _, _ = philox(counter, (seed & _MASK_32, (seed >> 32) & _MASK_32))
    return low | high << 32


def spread_seed(seed: int, choice: int) -> int:
    """The seed of one of several answers to the same prompt; of the first, the seed itself."""
    if choice == 0:
        return seed & _MASK_64
    low, high, _, _ = philox(
        (choice & _MASK_32, (choice >> 32) & _MASK_32, 1, 0),
        (seed & _MASK_32, (seed >> 32) & _MASK_32),
    )
    return low | high << 32
