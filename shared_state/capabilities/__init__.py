"""What a model can do: the capability tree, its default content and the short names."""

from shared_state.capabilities.tree import CapabilityNode, CapabilityTree, NodeType, default_tree

__all__ = ["CapabilityNode", "CapabilityTree", "NodeType", "default_tree"]
