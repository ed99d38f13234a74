"""The capability tree: its default content, its queries, its growth and its names."""

from __future__ import annotations

from collections import Counter

import pytest

from shared_state.capabilities import CapabilityTree, NodeType, default_tree
from shared_state.capabilities.aliases import DEFAULT_ALIASES

CHAT = "generation.text-generation.chat-completion"


@pytest.fixture
def tree() -> CapabilityTree:
    return default_tree()


def test_default_tree_has_the_documented_81_nodes(tree):
    """7 categories, 16 sub-categories, 58 leaves."""
    assert Counter(node.type for node in tree) == {
        NodeType.CATEGORY: 7,
        NodeType.SUBCATEGORY: 16,
        NodeType.LEAF: 58,
    }
    assert len(tree) == 81


def test_node_knows_its_place(tree):
    """Path, name, parent and children agree with each other."""
    node = tree.get_node("generation.text-generation")

    assert (node.name, node.parent, node.type) == ("text-generation", "generation", NodeType.SUBCATEGORY)
    assert node.children[0] == CHAT
    assert not node.is_leaf
    assert tree.get_node(CHAT).is_leaf


def test_unknown_path_is_a_key_error(tree):
    """Paths are not guessed, and aliases are no paths."""
    with pytest.raises(KeyError):
        tree.get_node("chat-completion")
    assert not tree.contains("chat-completion")


def test_ancestors_come_nearest_first(tree):
    """Specificity order is what pool resolution needs."""
    assert tree.get_ancestors(CHAT) == ("generation.text-generation", "generation")
    assert tree.get_ancestors("generation") == ()


def test_descendants_and_leaves_of_an_inner_node(tree):
    """Leaves are the descendants without children; a leaf is its own leaf."""
    assert tree.get_descendants("transformation")[:3] == (
        "transformation.translation",
        "transformation.rewriting",
        "transformation.style-transfer",
    )
    assert len(tree.get_descendants("transformation")) == 11
    assert len(tree.get_leaves("transformation")) == 9
    assert tree.get_leaves(CHAT) == (CHAT,)


def test_ancestry_is_by_whole_names(tree):
    """A common beginning of the text is no kinship."""
    tree.register("gen.other")

    assert tree.is_ancestor_of("generation", CHAT)
    assert not tree.is_ancestor_of(CHAT, CHAT)
    assert not tree.is_ancestor_of("gen", CHAT)
    assert not tree.is_ancestor_of("nothing", "nothing.below")


def test_categories_are_listed_in_order(tree):
    """The seven roots."""
    assert tree.list_categories() == (
        "generation",
        "understanding",
        "transformation",
        "representation",
        "retrieval",
        "interaction",
        "evaluation",
    )


def test_child_promotes_a_leaf(tree):
    """A leaf that gets a child becomes a sub-category, and the child is the leaf."""
    tree.add_node(CHAT, "role-play")

    assert tree.get_node(CHAT).type is NodeType.SUBCATEGORY
    assert tree.get_leaves(CHAT) == (f"{CHAT}.role-play",)
    assert tree.resolve_name("role-play") == f"{CHAT}.role-play"


def test_register_makes_the_nodes_above(tree):
    """A full path brings its parents; registering it again changes nothing."""
    tree.register("finance.risk.credit-scoring")
    before = len(tree)
    again = tree.register("finance.risk.credit-scoring")

    assert again.type is NodeType.LEAF
    assert before == len(tree) == 84
    assert tree.get_node("finance").type is NodeType.CATEGORY


@pytest.mark.parametrize("path", ["", "a..b", "Upper.case", "with space", "a.-b", "über.x"])
def test_malformed_paths_are_refused_whole(tree, path):
    """Nothing is added when one part of a path is malformed."""
    with pytest.raises(ValueError, match="capability path"):
        tree.register(f"brand-new.{path}")

    assert not tree.contains("brand-new")


def test_add_node_refuses_duplicates_and_orphans(tree):
    """An existing node and an unknown parent are told apart."""
    with pytest.raises(ValueError, match="exists already"):
        tree.add_node("generation", "text-generation")
    with pytest.raises(KeyError):
        tree.add_node("nowhere", "child")
    with pytest.raises(ValueError, match="no capability name"):
        tree.add_node("generation", "two.parts")


@pytest.mark.parametrize(("alias", "path"), DEFAULT_ALIASES.items())
def test_documented_aliases_lead_into_the_default_tree(tree, alias, path):
    """Short names, and paths that drifted in older releases, resolve to nodes that exist."""
    assert tree.resolve_name(alias) == path
    assert tree.contains(path)


def test_every_node_answers_to_its_own_name(tree):
    """In the default tree no two nodes share a name."""
    assert all(tree.resolve_name(node.name) == node.path for node in tree)


def test_ambiguous_short_names_mean_nothing(tree):
    """A name that two nodes bear is no alias any more; the paths still work."""
    tree.register("finance.classification")

    assert tree.resolve_name("classification") is None
    assert tree.resolve_name("finance.classification") == "finance.classification"
    assert "classification" not in tree.aliases()


def test_alias_may_point_at_an_alias_but_not_hide_a_node(tree):
    """Targets are resolved when the alias is made; a node's path keeps its meaning."""
    tree.add_alias("talk", "chat-completion")

    assert tree.resolve_name("talk") == CHAT
    with pytest.raises(ValueError, match="capability of its own"):
        tree.add_alias("generation", CHAT)
    with pytest.raises(ValueError, match="no capability"):
        tree.add_alias("lost", "nowhere")


def test_search_looks_at_paths_and_aliases(tree):
    """Whatever the case, without repeats."""
    assert tree.search("WHISPER") == []
    assert "understanding.audio-understanding.speech-to-text" in tree.search("Speech-To")
    assert tree.search("image-to-text") == ["understanding.vision-understanding.image-captioning"]
