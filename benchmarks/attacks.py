"""Attacks side by side: ours against foolbox, torchattacks' PGD, ART's Auto-PGD and the published attacks on VAEs.

Three MNIST VAEs (plain, beta = 4, Lipschitz) and a convolutional one of CIFAR-10; mean reconstructions, the same images
for all, and as many gradients, which the model counts. One judge re-computes every damage and cuts off what leaves the
ball or the box. Margins at `r`, half of the median distance between reconstructions of different images. Needs
`mnist.npz` and `cifar10_subset.npz` (`--data FOLDER`); a model whose images are not there is left out, and so is ART
where it cannot be installed in an environment of its own.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from attacks_art import make_environment
from attacks_judge import Counted
from attacks_models import RECIPES, Case, make_case, missing
from attacks_overhead import measure_overhead, show_overhead
from attacks_tables import make_targets, show, summarise
from attacks_work import Effort, Ledger, run_art, run_damages, run_ladder, run_margins, run_presets
from common import SHARED_DATA, finish, make_parser

QUICK = Effort(images=16, preset_images=2, radii=(("2", 1.0), ("2", 4.0)), budgets=(20,), ladder=(10, 20), art=False)


def examine(case: Case, effort: Effort, folder: Path, reason: str) -> dict[str, Any]:
    """Run everything on one model; `reason` is why there is no ART, empty where there is."""
    ledger = Ledger(Counted(case.vae))
    cells = run_damages(case, effort, ledger)
    if not reason:
        theirs, reason = run_art(case, effort, ledger, folder)
        cells = {place: {**cell, **theirs.get(place, {})} for place, cell in cells.items()}
    summary = summarise(
        cells, run_presets(case, effort, ledger), run_ladder(case, effort, ledger), run_margins(case, effort, ledger)
    )
    art = {"art_skipped": reason} if reason else {}
    return {"r": case.r, "r_relative": case.r_relative, **case.facts, **art, **summary, "costs": ledger.summary()}


def main() -> None:
    """Train, attack, compare."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--models", type=Path, help="folder of the trained models; a temporary one by default")
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the archives with the images")
    parser.add_argument("--peers", type=Path, help="folder of ART's environment; a temporary one by default")
    parser.add_argument("--only", nargs="+", choices=tuple(RECIPES), help="only attack these models, and write nothing")
    options = parser.parse_args()
    effort = QUICK if options.quick else Effort()
    torch.set_num_threads(1)
    start = time.perf_counter()
    skipped, found = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        models, peers = (options.models or Path(temporary)).resolve(), (options.peers or Path(temporary)).resolve()
        peers.mkdir(parents=True, exist_ok=True)
        no_art = make_environment(peers) if effort.art else "a quick run"
        for name in options.only or (list(RECIPES)[:1] if options.quick else RECIPES):
            if reason := missing(name, options.data):
                skipped[name] = reason
                print(f"{name}: skipped, {reason}")
                continue
            found[name] = examine(
                make_case(name, models, options.data.resolve(), effort.images, options.quick), effort, peers, no_art
            )
            show(name, found[name])
            if "art_skipped" in found[name]:
                print(f"{name}: ART skipped, {found[name]['art_skipped']}")
    if not found:
        print("attacks: skipped, there are no images")
        return
    if options.only:
        return
    overhead = measure_overhead(options.quick)
    show_overhead(overhead)
    seconds = time.perf_counter() - start
    print(f"{seconds:.0f} s in all")
    targets = make_targets(found, overhead)
    finish("attacks", options, targets, seconds=seconds, skipped=skipped, models=found, overhead=overhead)


if __name__ == "__main__":
    main()
