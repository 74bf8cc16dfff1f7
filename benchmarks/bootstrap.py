"""Time of the hierarchical bootstrap against a plain loop of scikit-learn calls.

    python benchmarks/bootstrap.py                     2 variants x 5 seeds x 15,000 patches x 2,000 replicates
    python benchmarks/bootstrap.py --patches 220025    the size of the competition's training set

The peer draws the same clusters and calls scikit-learn with weights for the six of the eight metrics that it has, and
NumPy for the other two. It is timed on a few replicates and its total is extrapolated, which the table says.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import sklearn.metrics as reference

from sentinode.evaluation.bootstrap import METRICS, bootstrap


def example(
    variants: int, seeds: int, patches: int, clusters: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    slides = rng.integers(clusters, size=patches)
    labels = rng.integers(2, size=patches)
    logits = rng.normal(size=clusters)[slides] + 2 * labels - 1 + rng.normal(size=(variants, seeds, patches))
    return labels, 1 / (1 + np.exp(-logits)), slides


def peer_scores(labels: np.ndarray, p: np.ndarray, w: np.ndarray) -> list[float]:
    """The eight metrics of one weighting, in the order of METRICS."""
    false_positive_rate, sensitivity, _ = reference.roc_curve(labels, p, sample_weight=w, drop_intermediate=False)
    gaps = np.bincount(np.minimum((p * 15).astype(int), 14), weights=w * (labels - p))
    return [
        reference.roc_auc_score(labels, p, sample_weight=w),
        reference.average_precision_score(labels, p, sample_weight=w),
        reference.accuracy_score(labels, p > 0.5, sample_weight=w),
        reference.balanced_accuracy_score(labels, p > 0.5, sample_weight=w),
        sensitivity[false_positive_rate <= 0.05 + 1e-9].max(),
        reference.brier_score_loss(labels, p, sample_weight=w),
        reference.log_loss(labels, p, sample_weight=w),
        np.abs(gaps).sum() / w.sum(),
    ]


def peer(
    labels: np.ndarray, probabilities: np.ndarray, slides: np.ndarray, replicates: int, rng: np.random.Generator
) -> np.ndarray:
    clusters = slides.max() + 1
    values = []
    for _ in range(replicates):
        weights = np.bincount(rng.integers(clusters, size=clusters), minlength=clusters)[slides]
        values.append([[peer_scores(labels, seed, weights) for seed in variant] for variant in probabilities])
    return np.mean(values, axis=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--patches", type=int, default=15_000)
    parser.add_argument("--clusters", type=int, default=150)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--peer-replicates", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    data = example(options.variants, options.seeds, options.patches, options.clusters, rng)
    start = time.perf_counter()
    by_peer = peer(*data, options.peer_replicates, rng)
    peer_s = (time.perf_counter() - start) / options.peer_replicates * options.replicates
    print(f"{'':<22}{'seconds':>10}{'CPU s':>10}{'peer / ours':>14}")
    print(f"{'scikit-learn loop':<22}{peer_s:>10.0f}{'':>10}{'':>14}  from {options.peer_replicates} replicates")
    start, cpu_start = time.perf_counter(), time.process_time()
    found = bootstrap(*data, rng=rng, replicates=options.replicates, workers=options.workers)
    duration_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    print(f"{'sentinode':<22}{duration_s:>10.2f}{cpu_s:>10.2f}{peer_s / duration_s:>13.0f}x")
    print("\nmean over replicates of the first variant")
    ours = bootstrap(*data, rng=rng, replicates=options.peer_replicates * 20, workers=options.workers)
    for column, metric in enumerate(METRICS):
        print(f"{metric:<32}{ours.values[:, 0, column].mean():>9.4f}{by_peer[:, 0, column].mean():>9.4f} (peer)")
    print(f"left out: {found.left_out} of {options.replicates}")


if __name__ == "__main__":
    main()
