"""One site's training: logistic regression in NumPy; the lines with `flare` make it federated."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

import covey.client as flare
from covey.algorithms import partition

Array = npt.NDArray[np.float64]


def load_data(site: int, num_sites: int) -> tuple[Array, Array, Array, Array]:
    """This site's share of the training data, and the test data that all sites share."""
    table = np.loadtxt(Path(__file__).with_name("tumours.csv"), delimiter=",", skiprows=1)
    inputs, labels = table[:, :-1], table[:, -1]
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    test = np.arange(len(labels)) % 5 == 0
    # Every site gets another mix of labels: a Dirichlet draw, the same one at all sites.
    mine = partition(labels[~test], num_sites, alpha=1.0, seed=1, min_size=10)[site % num_sites]
    return inputs[~test][mine], labels[~test][mine], inputs[test], labels[test]


def predict(params: dict[str, Array], inputs: Array) -> Array:
    """Probability of each input being malignant."""
    probabilities: Array = 1 / (1 + np.exp(-(inputs @ params["weights"] + params["bias"])))
    return probabilities


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_sites", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    flare.init()
    site = int(flare.get_site_name().rpartition("-")[2]) - 1
    inputs, labels, test_inputs, test_labels = load_data(site, args.num_sites)

    while flare.is_running():
        model = flare.receive()
        if model is None or model.params is None:
            break
        params = {name: np.array(value) for name, value in model.params.items()}
        right = (predict(params, test_inputs) > 0.5) == test_labels
        metrics = {"accuracy": float(right.mean())}
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue

        for _ in range(args.steps):
            error = predict(params, inputs) - labels
            params["weights"] -= args.learning_rate * (inputs.T @ error) / len(labels)
            params["bias"] -= args.learning_rate * error.mean()

        flare.send(
            flare.FLModel(
                params=params,
                metrics=metrics,
                meta={"NUM_STEPS_CURRENT_ROUND": len(labels)},
            )
        )


if __name__ == "__main__":
    main()
