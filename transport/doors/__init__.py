"""Doors: the ways through the network by which bytes reach another node.

Here: a module per door, each giving a `Pipe` (`pipe.py`) on both sides: its own framing over TCP
or TLS (`fast.py`), an HTTP Upgrade to that (`upgrade.py`), WebSocket (`websocket.py`) and gRPC
(`grpc.py`). What a session says through them is the same for all (`sessions`).
"""
