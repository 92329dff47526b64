"""One site's training: a scikit-learn classifier; the lines with `flare` make it federated."""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

import covey.client as flare
from covey.algorithms import partition

Array = npt.NDArray[np.float64]
CLASSES = np.arange(10)


def load_data(site: int, num_sites: int) -> tuple[Array, Array, Array, Array]:
    """This site's share of the training digits, and the test digits that all sites share."""
    digits = load_digits()
    inputs, labels = digits.data / 16, digits.target
    test = np.arange(len(labels)) % 5 == 0
    # Every site gets other digits: a Dirichlet draw over the labels, the same one at all sites.
    mine = partition(labels[~test], num_sites, alpha=1.0, seed=1)[site % num_sites]
    return inputs[~test][mine], labels[~test][mine], inputs[test], labels[test]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_sites", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()

    flare.init()
    site = int(flare.get_site_name().rpartition("-")[2]) - 1
    inputs, labels, test_inputs, test_labels = load_data(site, args.num_sites)
    classifier = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05)
    classifier.partial_fit(inputs[:1], labels[:1], CLASSES)  # makes its arrays

    while flare.is_running():
        model = flare.receive()
        if model is None or model.params is None:
            break
        classifier.coef_ = np.array(model.params["coef"])
        classifier.intercept_ = np.array(model.params["intercept"])
        metrics = {"accuracy": float(classifier.score(test_inputs, test_labels))}
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue

        for _ in range(args.epochs):
            order = np.random.permutation(len(labels))
            classifier.partial_fit(inputs[order], labels[order])

        flare.send(
            flare.FLModel(
                params={"coef": classifier.coef_, "intercept": classifier.intercept_},
                metrics=metrics,
                meta={"NUM_STEPS_CURRENT_ROUND": len(labels)},
            )
        )


if __name__ == "__main__":
    main()
