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
    """Nodes behind peers."""

    def __init__(self) -> None:
        """Nobody has announced anything."""
        self._by_node: dict[str, str] = {}
        self._by_peer: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        """How many nodes are behind others."""
        return len(self._by_node)

    def peer_of(self, node: str) -> str | None:
        """Through whom a node is reached, None if nobody has announced it."""
        return self._by_node.get(node)

    def behind(self, peer: str) -> tuple[str, ...]:
        """The nodes that are reached through a peer."""
        return tuple(self._by_peer.get(peer, ()))

    def announce(self, peer: str, nodes: Iterable[str]) -> list[str]:
        """A peer says that it reaches `nodes`; those of them that it may be taken at its word for.

        A node that is behind another peer stays there: the first to announce it keeps it for as
        long as it reaches it.
        """
        taken: list[str] = []
        mine = self._by_peer.setdefault(peer, {})
        for node in nodes:
            if len(mine) >= ANNOUNCED and node not in mine:
                break
            if self._by_node.setdefault(node, peer) == peer:
                mine[node] = None
                taken.append(node)
        return taken

    def withdraw(self, peer: str, nodes: Iterable[str]) -> list[str]:
        """A peer says that it does not reach `nodes` any more; those that were behind it."""
        mine = self._by_peer.get(peer, {})
        gone = [node for node in nodes if node in mine]
        for node in gone:
            del mine[node], self._by_node[node]
        return gone

    def forget(self, node: str) -> None:
        """A node has come by itself: it is behind nobody any more."""
        peer = self._by_node.pop(node, None)
        if peer is not None:
            del self._by_peer[peer][node]

    def drop(self, peer: str) -> tuple[str, ...]:
        """A peer is gone, and with it all that was behind it."""
        gone = self.behind(peer)
        self.withdraw(peer, gone)
        self._by_peer.pop(peer, None)
        return gone
