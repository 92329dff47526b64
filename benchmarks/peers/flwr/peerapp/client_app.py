"""A client of flwr, for all kinds of work."""

from __future__ import annotations

from functools import cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.peers.work import cnn, samples
from benchmarks.peers.work.settings import Work

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do one task of the work."""
    work = Work.from_environment()
    arrays = message.content["arrays"]
    if work.task != "big":
        torch.set_num_threads(1)
        net = cnn.SmallCNN()
        net.load_state_dict(arrays.to_torch_state_dict())
        if work.task == "accuracy":
            cnn.train(net, *own(context.node_config["partition-id"]))
        else:
            cnn.train_trivially(net, *cnn.trivial_samples())
        arrays = ArrayRecord(net.state_dict())
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)


@cache
def own(site):
    """The images of a site, loaded once in each process."""
    return samples.of_site(Work.from_environment(), site)
