"""Edge: what stands between a federation's server and its sites.

Here: the relay (`relay.py`). Not here: the server and the sites themselves (`covey.actors.roles`).
"""
