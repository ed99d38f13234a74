"""The capability tree: dotted paths from category to leaf, open to additions at every level."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from shared_state.capabilities.aliases import DEFAULT_ALIASES
from shared_state.capabilities.catalogue import default_paths

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


class NodeType(StrEnum):
    """Where a node stands; a node without a parent is a category even while it has no children."""

    CATEGORY = "category"
    SUBCATEGORY = "subcategory"
    LEAF = "leaf"


@dataclass(slots=True)
class CapabilityNode:
    """A node; ``parent`` and ``children`` are full paths."""

    path: str
    name: str
    parent: str | None
    children: list[str] = field(default_factory=list)

    @property
    def is_leaf(self) -> bool:
        """Whether models may register here."""
        return not self.children

    @property
    def type(self) -> NodeType:
        """Category, sub-category or leaf, as the tree stands now."""
        if self.parent is None:
            return NodeType.CATEGORY
        return NodeType.LEAF if self.is_leaf else NodeType.SUBCATEGORY


class CapabilityTree:
    """A forest of capability nodes, with aliases. Paths go in and come out; nothing is case-folded or guessed."""

    def __init__(self) -> None:
        self._nodes: dict[str, CapabilityNode] = {}
        self._named: dict[str, list[str]] = {}
        self._aliases: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[CapabilityNode]:
        return iter(self._nodes.values())

    def contains(self, path: str) -> bool:
        """Whether ``path`` is a node; aliases are not looked up."""
        return path in self._nodes

    def get_node(self, path: str) -> CapabilityNode:
        """The node at ``path``.

        Raises:
            KeyError: there is none.
        """
        return self._nodes[path]

    def get_ancestors(self, path: str) -> tuple[str, ...]:
        """Paths above ``path``, the nearest first."""
        above = []
        parent = self._nodes[path].parent
        while parent is not None:
            above.append(parent)
            parent = self._nodes[parent].parent
        return tuple(above)

    def get_descendants(self, path: str) -> tuple[str, ...]:
        """Paths below ``path``, parents before their children."""
        below = []
        for child in self._nodes[path].children:
            below.append(child)
            below.extend(self.get_descendants(child))
        return tuple(below)

    def get_leaves(self, path: str) -> tuple[str, ...]:
        """Leaves at or below ``path``: a leaf yields itself."""
        if self._nodes[path].is_leaf:
            return (path,)
        return tuple(below for below in self.get_descendants(path) if self._nodes[below].is_leaf)

    def is_ancestor_of(self, ancestor: str, descendant: str) -> bool:
        """Whether ``ancestor`` stands strictly above ``descendant``."""
        return ancestor in self._nodes and descendant in self._nodes and descendant.startswith(f"{ancestor}.")

    def list_categories(self) -> tuple[str, ...]:
        """Paths without a parent."""
        return tuple(path for path, node in self._nodes.items() if node.parent is None)

    def add_node(self, parent: str | None, name: str) -> CapabilityNode:
        """Add one node; a parent that was a leaf becomes a sub-category.

        Args:
            parent: path of an existing node; None adds a category.
            name: lower-case letters, digits and single hyphens.

        Raises:
            KeyError: the parent is unknown.
            ValueError: the name is malformed, or the node exists.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no capability name: use lower-case letters, digits and hyphens")
        path = name if parent is None else f"{parent}.{name}"
        if path in self._nodes:
            raise ValueError(f"{path!r} exists already")
        if parent is not None:
            self._nodes[parent].children.append(path)
        node = self._nodes[path] = CapabilityNode(path=path, name=name, parent=parent)
        self._named.setdefault(name, []).append(path)
        return node

    def register(self, path: str) -> CapabilityNode:
        """Make sure that ``path`` exists, with every node above it.

        Raises:
            ValueError: a part of the path is malformed; nothing was added.
        """
        names = path.split(".")
        for name in names:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{path!r} is no capability path: use lower-case names joined by dots")
        parent: str | None = None
        for depth, name in enumerate(names, start=1):
            prefix = ".".join(names[:depth])
            if prefix not in self._nodes:
                self.add_node(parent, name)
            parent = prefix
        return self._nodes[path]

    def add_alias(self, alias: str, target: str) -> None:
        """Let ``alias`` stand for ``target``, a path or another name.

        Raises:
            ValueError: the alias is the path of a node, or the target is unknown.
        """
        if alias in self._nodes:
            raise ValueError(f"{alias!r} is a capability of its own and cannot be an alias")
        path = self.resolve_name(target)
        if path is None:
            raise ValueError(f"{target!r} is no capability")
        self._aliases[alias] = path

    def resolve_name(self, name: str) -> str | None:
        """The path that a path, an alias or an unambiguous short name stands for; None if nothing."""
        if name in self._nodes:
            return name
        if name in self._aliases:
            return self._aliases[name]
        bearers = self._named.get(name, ())
        return bearers[0] if len(bearers) == 1 else None

    def aliases(self) -> dict[str, str]:
        """Every short name that resolves, with its path, in alphabetical order."""
        unique = {name: paths[0] for name, paths in self._named.items() if len(paths) == 1}
        return {
            alias: path
            for alias, path in sorted({**unique, **self._aliases}.items())
            if alias not in self._nodes
        }

    def names(self) -> list[str]:
        """Everything that `resolve_name` understands: paths first, then aliases."""
        return [*self._nodes, *self.aliases()]

    def search(self, keyword: str) -> list[str]:
        """Paths whose own text or alias holds ``keyword``, whatever its case, in alphabetical order."""
        wanted = keyword.casefold()
        found = {path for path in self._nodes if wanted in path}
        found.update(path for alias, path in self.aliases().items() if wanted in alias.casefold())
        return sorted(found)


def default_tree() -> CapabilityTree:
    """A new tree with the documented default hierarchy and aliases."""
    tree = CapabilityTree()
    for path in default_paths():
        tree.register(path)
    for alias, path in DEFAULT_ALIASES.items():
        tree.add_alias(alias, path)
    return tree
