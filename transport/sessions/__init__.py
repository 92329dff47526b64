"""Sessions: a conversation of two nodes that outlives its connections.

Here: opening one (`handshake.py`), the numbers and copies by which nothing is lost or doubled
(`lanes.py`), and the link that a system sees (`link.py`). Not here: the connections (`doors`), who
dials and who listens (`dialer.py`, `listener.py`).
"""
