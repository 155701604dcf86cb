"""How long a plan of slices takes: `python bench/placement.py [--json FILE]`.

Six nodes and 48 layers, random but the same in every run: speeds and links tenfold apart, memory
for a fraction of the model or for all of it, up to twelve links past the broker.
"""

import argparse
import json
import time
from pathlib import Path
from random import Random

import numpy as np

from maille_coordinator.placement import (
    STAGE_OVERHEAD_BYTES,
    Links,
    ModelShape,
    NodeOffer,
    Objective,
    PlacementImpossible,
    Wish,
    place,
)

NODES, LAYERS = 6, 48
BAR_MS = 10.0
SESSIONS = (2, 4, 8)

Case = tuple[ModelShape, list[NodeOffer], Links]


def random_case(random: Random, sessions: int, context_tokens: int) -> Case:
    """A model, nodes and links."""
    uneven = random.choice((0.0, 0.2, 0.8))
    shape = ModelShape(
        layers=tuple(int(3e6 * random.uniform(1 - uneven, 1 + uneven)) for _ in range(LAYERS)),
        embedding_bytes=random.randrange(30_000_000),
        head_bytes=28_000_000,
        kv_bytes_per_token=random.choice((0, 768)),
        hidden_size=random.choice((576, 4096)),
    )
    whole = shape.weight_bytes(0, LAYERS - 1)
    whole += shape.kv_bytes_per_token * context_tokens * sessions * LAYERS
    share = random.choice(((0.1, 0.8), (0.5, 3.0)))
    names = [f"n{number}" for number in range(NODES)]
    offers = [
        NodeOffer(
            node=name,
            layer_decode_s=10 ** random.uniform(-4, -3),
            layer_prefill_s=10 ** random.uniform(-4.7, -3.7),
            embedding_s=random.uniform(0, 1e-4),
            head_s=10 ** random.uniform(-3.3, -2.3),
            memory_bytes=STAGE_OVERHEAD_BYTES + int(whole * random.uniform(*share)),
        )
        for name in names
    ]
    direct = {
        (one, other): random.uniform(0.05, 1)
        for one, other in (random.sample(names, 2) for _ in range(random.choice((0, 1, 4, 12))))
    }
    links = Links(
        broker_ms={name: 10 ** random.uniform(-0.7, 1) for name in names},
        direct_ms=direct,
        bytes_per_s={name: 10 ** random.uniform(5.5, 8) for name in names},
    )
    return shape, offers, links


def plan_ms(case: Case, wish: Wish) -> float | None:
    """Milliseconds of a plan, None if the nodes cannot hold the model."""
    started = time.perf_counter()
    try:
        place(*case, wish)
    except PlacementImpossible:
        return None
    return (time.perf_counter() - started) * 1000


def measure(cases: int, seed: int) -> dict[str, list[float]]:
    """Milliseconds of every plan, for each objective."""
    random = Random(seed)
    found: dict[str, list[float]] = {objective.value: [] for objective in Objective}
    while min(map(len, found.values())) < cases:
        for objective in Objective:
            sessions = 1 if objective is Objective.LATENCY else random.choice(SESSIONS)
            wish = Wish(256, sessions, objective=objective)
            taken = plan_ms(random_case(random, sessions, 256), wish)
            if taken is not None and len(found[objective.value]) < cases:
                found[objective.value].append(taken)
    return found


def figures(taken_ms: list[float]) -> dict[str, float]:
    """Median, 95th percentile and greatest."""
    p50, p95, most = np.percentile(taken_ms, (50, 95, 100))
    return {"p50_ms": round(p50, 2), "p95_ms": round(p95, 2), "max_ms": round(most, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=200, help="plans for each objective")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args()
    measure(4, options.seed)  # imports and tables that are made once
    taken = measure(options.cases, options.seed)
    together = [each for part in taken.values() for each in part]
    result = {
        "nodes": NODES,
        "layers": LAYERS,
        "cases": options.cases,
        "bar_p95_ms": BAR_MS,
        **{name: figures(part) for name, part in (*taken.items(), ("both", together))},
    }
    for name in (*taken, "both"):
        print(f"{name:<11}" + ", ".join(f"{key} {value}" for key, value in result[name].items()))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
