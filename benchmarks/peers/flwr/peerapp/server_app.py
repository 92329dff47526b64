"""The server of flwr: its FedAvg strategy, the new model measured by it."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.peers.work import big, cnn, samples
from benchmarks.peers.work.settings import Work

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the work; a big model is looked at in the end, and written that it was."""
    work = Work.from_environment()
    model = big.Big() if work.task == "big" else cnn.SmallCNN()
    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=work.clients, min_available_nodes=work.clients
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=work.rounds,
        evaluate_fn=measuring(work) if work.task == "accuracy" else None,
    )
    if work.task == "big":
        big.check(result.arrays.to_torch_state_dict())
    work.done.touch()  # `flwr run` itself ends with 0 whatever comes of the run


def measuring(work):
    """What notes the accuracy of each new model."""
    net, test = cnn.SmallCNN(), samples.for_testing(work)

    def evaluate(server_round, arrays):
        net.load_state_dict(arrays.to_torch_state_dict())
        samples.note(work, server_round, cnn.accuracy(net, *test))
        return MetricRecord()

    return evaluate
