"""The federation's actors: server, site, trainer, job and aggregator, and their messages."""
