"""The app that flwr runs: a server and its clients."""
