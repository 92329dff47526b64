"""pfl: `python job.py`, its simulated backend in one process."""

from __future__ import annotations

import json
import sys
import time
from functools import cache

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn

from benchmarks.peers.work import big, cnn, samples
from benchmarks.peers.work.settings import Work

work = Work.from_environment()


class Net(cnn.SmallCNN):
    """The network with what pfl asks of one."""

    def loss(self, images, labels):
        """What local training minimizes."""
        return nn.functional.cross_entropy(self(images), labels)

    def metrics(self, images, labels):
        """Asked for at the first iteration whatever the settings are: nothing that takes time."""
        return {"none": Weighted(0, 1)}


class BigNet(big.Big):
    """The big model with what pfl asks of one; local training has no epochs."""

    def loss(self, images, labels):
        """Never called."""
        raise AssertionError

    def metrics(self, images, labels):
        """Nothing that takes time."""
        return {"none": Weighted(0, 1)}


class Watch(TrainingProcessCallback):
    """Notes the accuracy, or the time, after each iteration."""

    def __init__(self):
        """Begin the time."""
        self.test = samples.for_testing(work) if work.task == "accuracy" else None
        self.times = [time.perf_counter()]

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Look at the new model."""
        self.times.append(time.perf_counter())
        if self.test is not None:
            found = cnn.accuracy(model.pytorch_model, *self.test)
            samples.note(work, central_iteration + 1, found)
        return False, Metrics()


@cache
def dataset(site):
    """A user's samples; made once, as all users of trivial work have the same."""
    if work.task == "accuracy":
        return PyTorchTensorDataset(samples.of_site(work, site), user_id=str(site))
    return trivial()


@cache
def trivial():
    """Made-up samples."""
    return PyTorchTensorDataset(cnn.trivial_samples())


def local_training():
    """Epochs, rate and batch of the work."""
    if work.task == "accuracy":
        return NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=cnn.RATE, local_batch_size=cnn.BATCH
        )
    epochs = 0 if work.task == "big" or not work.training else cnn.TRIVIAL_STEPS
    return NNTrainHyperParams(
        local_num_epochs=epochs, local_learning_rate=cnn.TRIVIAL_RATE, local_batch_size=None
    )


def main():
    """Run the work."""
    if work.task != "big":
        torch.set_num_threads(1)
    net = BigNet() if work.task == "big" else Net()
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    users = FederatedDataset(dataset, get_user_sampler("minimize_reuse", list(range(work.clients))))
    params = NNAlgorithmParams(
        central_num_iterations=work.rounds,
        evaluation_frequency=work.rounds,
        train_cohort_size=work.clients,
        val_cohort_size=None,
    )
    watch = Watch()
    FederatedAveraging().run(
        params,
        SimulatedBackend(training_data=users, val_data=users),
        model,
        local_training(),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[watch],
    )
    if work.task == "big":
        big.check(net.state_dict())
    if work.task == "tasks":
        pairs = zip(watch.times, watch.times[1:], strict=False)
        work.times.write_text(json.dumps([after - before for before, after in pairs]))


if __name__ == "__main__":
    sys.exit(main())
