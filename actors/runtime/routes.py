"""Routes: which nodes are reached through which peer.

Pure decisions. A relay announces the nodes that it has seen; whoever is linked to it reaches them
through it, and takes envelopes in their names from it and from nobody else. Not here: links
(`border.py`), and who may announce anything (`Identity.carries`).
"""

from __future__ import annotations

from collections.abc import Iterable

#: Nodes that one peer may announce: what it can make us keep.
ANNOUNCED: int = 100_000


class Routes:
    """Nodes behind peers. A node may be behind several: it is reached through the latest."""

    def __init__(self) -> None:
        """Nobody has announced anything."""
        self._by_node: dict[str, list[str]] = {}
        self._by_peer: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        """How many nodes are behind others."""
        return len(self._by_node)

    def peer_of(self, node: str) -> str | None:
        """Through whom a node is reached, None if nobody has announced it."""
        peers = self._by_node.get(node)
        return peers[-1] if peers else None

    def has(self, peer: str, node: str) -> bool:
        """Whether a peer has announced a node."""
        return node in self._by_peer.get(peer, ())

    def behind(self, peer: str) -> tuple[str, ...]:
        """The nodes that a peer has announced."""
        return tuple(self._by_peer.get(peer, ()))

    def announce(self, peer: str, node: str) -> bool:
        """A peer says that it reaches a node; False if it has named too many."""
        mine = self._by_peer.setdefault(peer, {})
        if len(mine) >= ANNOUNCED and node not in mine:
            return False
        peers = self._by_node.setdefault(node, [])
        if node in mine:
            peers.remove(peer)
        peers.append(peer)
        mine[node] = None
        return True

    def withdraw(self, peer: str, nodes: Iterable[str]) -> list[str]:
        """A peer does not reach `nodes` any more; those of them that it was the way to."""
        mine = self._by_peer.get(peer, {})
        lost: list[str] = []
        for node in [node for node in nodes if node in mine]:
            del mine[node]
            peers = self._by_node[node]
            if peers[-1] == peer:
                lost.append(node)
            peers.remove(peer)
            if not peers:
                del self._by_node[node]
        return lost

    def drop(self, peer: str) -> list[str]:
        """A peer is gone; the nodes that it was the way to."""
        lost = self.withdraw(peer, self.behind(peer))
        self._by_peer.pop(peer, None)
        return lost
